import Foundation
import Kernels

// Exit distributions, how a depth is drawn from them, and their derivatives (paper 3.2; training.md, "The objective").
//
// Letters: K most iterations, p(t) probability of leaving after iteration t = 1…K, z the straight-through choice.

/// The distribution over depths that the compute regulariser pulls towards.
public struct DepthPrior: Sendable {
    /// The paper's exponential, read in two ways.
    public enum Form: String, Codable, Sendable, CaseIterable {
        /// p(t) ∝ γ^(−t).
        case ratio
        /// p(t) ∝ exp(−γ t).
        case rate
    }

    /// log p(t), t = 1…K.
    public let logProbabilities: [Float]

    /// gamma: above 0. 1 in the ratio form is the uniform distribution.
    public init(gamma: Float, form: Form, maxDepth: Int) {
        let rate = form == .ratio ? log(Double(gamma)) : Double(gamma)
        let logs = (1...maxDepth).map { -rate * Double($0) }
        let most = logs.max() ?? 0
        let logZ = most + log(logs.reduce(0) { $0 + exp($1 - most) })
        logProbabilities = logs.map { Float($0 - logZ) }
    }

    /// KL(p ‖ prior) = Σ p (log p − log prior), in nats.
    func divergence(_ p: UnsafePointer<Float>) -> Float {
        logProbabilities.indices.reduce(0) { total, t in
            p[t] > 0 ? total + p[t] * (logf(p[t]) - logProbabilities[t]) : total
        }
    }

    /// dKL/dp(t) at t = index + 1.
    func slope(_ p: Float, at index: Int) -> Float {
        logf(max(p, .leastNormalMagnitude)) + 1 - logProbabilities[index]
    }
}

/// How a forward pass decides depths.
public enum DepthChoice: Sendable {
    /// From the batch's noise: Gumbel-softmax (early) or inverse CDF (online).
    case sampled
    /// As in serving: early `argmax`; online the first t with CDF(t) ≥ threshold.
    case inferred(threshold: Float)
    /// Every position leaves after so many iterations.
    case fixed(Int)
}

/// ANIRA-E over the rows of a batch: p = softmax(logits), the choice from softmax((logits + g) / τ).
struct EarlyExits {
    let maxDepth: Int
    let p: UnsafeMutablePointer<Float>  // [R, K]
    let soft: UnsafeMutablePointer<Float>  // [R, K], equal to p when not sampled

    /// noise: Gumbel [R, K]; without it the depth is the first maximum of p.
    init(_ logits: UnsafePointer<Float>, noise: [Float]?, rows: Int, maxDepth k: Int, temperature: Float, arena: Arena)
    {
        maxDepth = k
        p = arena.take(rows * k)
        soft = arena.take(rows * k)
        p.update(from: logits, count: rows * k)
        for row in 0..<rows { anira_softmax(p + row * k, Int32(k)) }
        guard let noise else {
            soft.update(from: p, count: rows * k)
            return
        }
        for index in 0..<(rows * k) { soft[index] = (logits[index] + noise[index]) / temperature }
        for row in 0..<rows { anira_softmax(soft + row * k, Int32(k)) }
    }

    /// Depth of a row, 1…K.
    func depth(_ row: Int) -> Int { 1 + Int(anira_argmax(soft + row * maxDepth, Int32(maxDepth))) }

    /// Sets dLogits [K] of one row: the choice's gradient dz through soft, the regulariser's through p.
    func backward(
        _ row: Int, dz: UnsafePointer<Float>, prior: DepthPrior, weight: Float, temperature: Float,
        into dLogits: UnsafeMutablePointer<Float>
    ) {
        let (p, soft) = (p + row * maxDepth, soft + row * maxDepth)
        var (pulled, chosen): (Float, Float) = (0, 0)
        for t in 0..<maxDepth {
            pulled += p[t] * prior.slope(p[t], at: t)
            chosen += soft[t] * dz[t]
        }
        for t in 0..<maxDepth {
            dLogits[t] =
                soft[t] * (dz[t] - chosen) / temperature + weight * p[t] * (prior.slope(p[t], at: t) - pulled)
        }
    }
}

/// ANIRA-O over the rows of a batch, one iteration after the other: λ_t = sigmoid(logit_t),
/// p(t) = λ_t Π_{s<t} (1 − λ_s), p(K) what remains.
struct OnlineExits {
    let maxDepth: Int
    let p: UnsafeMutablePointer<Float>  // [R, K]
    private let lambda: UnsafeMutablePointer<Float>  // [R, K]
    private let survival: UnsafeMutablePointer<Float>  // [R, K], Π_{s<t} (1 − λ_s)
    private let cumulative: UnsafeMutablePointer<Float>  // [R]

    init(rows: Int, maxDepth k: Int, arena: Arena) {
        maxDepth = k
        p = arena.takeZeros(rows * k)
        lambda = arena.takeZeros(rows * k)
        survival = arena.take(rows * k)
        cumulative = arena.takeZeros(rows)
        for row in 0..<rows { survival[row * k] = 1 }
    }

    /// Takes the logit after iteration t < K; returns CDF(t).
    func observe(_ row: Int, iteration t: Int, logit: Float) -> Float {
        let at = row * maxDepth + t - 1
        lambda[at] = 1 / (1 + expf(-logit))
        p[at] = lambda[at] * survival[at]
        survival[at + 1] = survival[at] * (1 - lambda[at])
        if t == maxDepth - 1 { p[at + 1] = survival[at + 1] }
        cumulative[row] += p[at]
        return cumulative[row]
    }

    /// K = 1: all leave after the first iteration.
    func leaveAtOnce(_ row: Int) { p[row] = 1 }

    /// The gradient of the logit after iteration t < K. dp: gradient of p(t); later: the gradient that p(t+1…K) pass on
    /// per unit of survival, replaced by that of p(t…K).
    func backward(_ row: Int, iteration t: Int, dp: Float, later: inout Float) -> Float {
        let at = row * maxDepth + t - 1
        let dLambda = survival[at] * (dp - later)
        later = lambda[at] * dp + (1 - lambda[at]) * later
        return dLambda * lambda[at] * (1 - lambda[at])
    }
}
