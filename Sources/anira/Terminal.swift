import Foundation

/// Columns of the terminal there; as many as one likes where there is none.
func terminalColumns(_ descriptor: Int32) -> Int {
    var size = winsize()
    guard ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return .max }
    return Int(size.ws_col)
}

/// The parts in as few lines as the columns allow, none broken.
func joined(_ parts: [String], _ separator: String, columns: Int) -> String {
    var lines: [String] = []
    for part in parts {
        if let last = lines.last, last.count + separator.count + part.count < columns {
            lines[lines.count - 1] += separator + part
        } else {
            if !lines.isEmpty { lines[lines.count - 1] += separator.trimmingCharacters(in: .whitespaces) }
            lines.append(part)
        }
    }
    return lines.joined(separator: "\n")
}
