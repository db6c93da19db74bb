//! `sluice`: the gateway and its command line.

#![forbid(unsafe_code)]

mod admin;
mod audit;
mod command;
mod config;
mod deadletter;
mod farewell;
mod identity;
mod node_secret;
mod quota_file;
mod remote;
mod sandbox;
mod serve;
mod show;
mod task;
mod tls;
mod vault;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use sluice_core::IO_VARIABLE;

use crate::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs mail, calendar and files by plain-language commands, over HTTP/3.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct Settings {
    /// Configuration file (TOML); without it every key has its default
    #[arg(long, short, global = true, env = "SLUICE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key, such as listen.port=443; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
    /// Data directory (server.data_dir)
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Serve(ServeArgs),
    /// Send a command to a gateway and show the plan, the calls and the answer
    #[command(name = "command")]
    Send(command::CommandArgs),
    /// Commands of a user that failed for good although they might have worked
    #[command(subcommand, name = "deadletter")]
    DeadLetter(deadletter::DeadLetterCommand),
    /// A task, and how it came to what it came to
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Users
    #[command(subcommand)]
    User(UserCommand),
    /// API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// The audit log: who did what
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// What the gateway gives up when it runs
    #[command(subcommand)]
    Sandbox(sandbox::SandboxCommand),
    /// Master keys, which seal users' tokens at rest
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// How the cores do I/O (server.io): auto, uring or epoll
    #[arg(long, env = IO_VARIABLE, value_name = "BACKEND")]
    io: Option<String>,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Add a user
    Add(admin::NewUser),
    /// List users
    List,
    /// Change a user: role, disabled, signed out, an identity
    Set(admin::UserChange),
    /// Make many users with keys, for load tests
    Seed(admin::NewSeed),
    /// Connect a user with a Google account by its refresh token
    Connect(admin::NewConnection),
    /// Show or set how many requests of a user are taken
    Limit(admin::NewLimit),
    /// Write everything of a user to a file, as JSON lines
    Export(farewell::ExportArgs),
    /// Erase a user and everything of theirs, for good
    Erase(farewell::EraseArgs),
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make an API key; it is shown once
    Add(admin::NewKey),
    /// List a user's keys: id, label, scopes, made, ends
    List(admin::KeyOwner),
    /// Revoke a key, at once
    Revoke(admin::KeyRevocation),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration and say what is wrong
    Check,
    /// Print the effective configuration, with the origin of every value
    Print,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as listen.port=443")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Settings {
    /// The configuration; `command` may have flags for keys of its own.
    fn load(&self, command: &Command) -> anyhow::Result<Config> {
        let mut flags = self.set.clone();
        if let Some(directory) = &self.data_dir {
            flags.push(("server.data_dir".to_owned(), directory.clone()));
        }
        if let Command::Serve(ServeArgs { io: Some(io) }) = command {
            flags.push(("server.io".to_owned(), io.clone()));
        }
        Ok(Config::load(self.config.as_deref(), &flags)?)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let config = cli.settings.load(&cli.command)?;
    // Before any secret is used.
    if !config.vault.core_dumps {
        sluice_tuning::forbid_dumps().context("cannot keep the process's memory from being dumped")?;
    }
    match cli.command {
        Command::Serve(_) => serve::run(&config).context("cannot serve"),
        Command::Send(args) => command::run(&config, &args),
        Command::DeadLetter(command) => deadletter::run(&config, command),
        Command::Task(command) => task::run(&config, command),
        Command::User(UserCommand::Add(user)) => admin::add_user(&config, &user),
        Command::User(UserCommand::Seed(seed)) => admin::seed_users(&config, &seed),
        Command::User(UserCommand::List) => admin::list_users(&config),
        Command::User(UserCommand::Connect(connection)) => admin::connect(&config, &connection),
        Command::User(UserCommand::Limit(limit)) => admin::limit_user(&config, &limit),
        Command::User(UserCommand::Set(change)) => admin::change_user(&config, &change),
        Command::User(UserCommand::Export(args)) => farewell::export(&config, &args),
        Command::User(UserCommand::Erase(args)) => farewell::erase(&config, &args),
        Command::Key(KeyCommand::Add(key)) => admin::add_key(&config, &key),
        Command::Audit(command) => audit::run(&config, &command),
        Command::Key(KeyCommand::List(owner)) => admin::list_keys(&config, &owner),
        Command::Key(KeyCommand::Revoke(revocation)) => admin::revoke_key(&config, &revocation),
        Command::Sandbox(command) => sandbox::run(&config, &command),
        Command::Vault(command) => vault::run(&config, &command),
        Command::Config(ConfigCommand::Check) => {
            println!("the configuration is fine");
            Ok(())
        }
        Command::Config(ConfigCommand::Print) => {
            print!("{}", config.print());
            Ok(())
        }
    }
}
