//! The mesh daemon by itself, for laboratories: `meshd mesh.toml`. It ends in good order on SIGINT or SIGTERM.

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: meshd CONFIG.toml")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let config: atoll_mesh::Config = toml::from_str(&text).with_context(|| format!("{path} is not a configuration"))?;
    // As the product does.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        atoll_mesh::run_file(config, path.as_ref(), shutdown).await?;
        Ok(())
    })
}
