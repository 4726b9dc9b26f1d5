//! The program. Everything it does is in the library, so that tests reach it.

fn main() -> std::process::ExitCode {
    holdfast::cli::main()
}
