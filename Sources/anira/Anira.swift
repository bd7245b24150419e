import ArgumentParser
import Foundation
import Proto

/// The program: one command, and 1 as its exit status when what it printed could not be written.
@main
enum Main {
    static func main() {
        signal(SIGXFSZ, SIG_IGN)  // a limit on file size is an error of the write, like a full disk
        // A crash ends the process at once, for who starts it again. The runtime's report, which hangs where a thread of
        // libzmq is at fault, is only for those who ask for it.
        if getenv("SWIFT_BACKTRACE") == nil {
            for number in [SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGFPE, SIGBUS, SIGSEGV] { signal(number, SIG_DFL) }
        }
        // Where one is closed no file may take its number: writing to it stays an error.
        for descriptor in 0...2 where fcntl(Int32(descriptor), F_GETFD) == -1 { _ = open("/dev/null", O_RDONLY) }
        do {
            var command = try Anira.parseAsRoot()
            try run(&command)
        } catch {
            Anira.exit(withError: error)
        }
    }

    private static func run(_ command: inout any ParsableCommand) throws {
        do {
            try command.run()
            try endOutput()
        } catch LineOutput.Failure.readerIsGone {
            // `| head` has seen enough.
        } catch let error as ValidationError {  // the parser would add the usage of another command
            tell("Error: \(error)\n")
            throw ExitCode.validationFailure
        }
    }
}

/// The command line: services, client tools, the store's tools, measurements (docs/architecture.md).
struct Anira: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "anira",
        abstract: "Serve and measure transformers that decide, token by token, how deep to think.",
        discussion: """
            Start everything on a shipped model:
              anira up --model checkpoints/mano-online
            Ask it something, each token coloured by its depth:
              anira generate --depths --max-new-tokens 1 '<bos> + 3 * 2 4 <ans>'
            """,
        version: "anira \(suiteVersion), worker protocol \(workerProtocolVersion)",
        groupedSubcommands: [
            CommandGroup(
                name: "Services",
                subcommands: [Up.self, RouterCommand.self, DeciderCommand.self, CoreCommand.self, CodaCommand.self]),
            CommandGroup(
                name: "Clients", subcommands: [Generate.self, ScoreCommand.self, StatusCommand.self, Top.self]),
            CommandGroup(name: "Research", subcommands: [DataCommand.self, Train.self, Eval.self]),
            CommandGroup(name: "Tools", subcommands: [KV.self, Bench.self]),
        ])
}
