//! Serves the API alone: `serve DIRECTORY ADDRESS:PORT`. Writes DIRECTORY/kubeconfig. For trying clients.

use dray_apiserver::{ApiServer, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = std::path::PathBuf::from(arguments.next().ok_or("which directory?")?);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:6443".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    let address = listener.local_addr()?;
    let server = ApiServer::open(Config {
        data_dir: directory.clone(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: address,
        names: Vec::new(),
        node_connector: None,
        extensions: Vec::new(),
    })
    .await?;
    server.write_kubeconfig(&directory.join("kubeconfig"), &format!("https://{address}"))?;
    server.serve(listener, async { drop(tokio::signal::ctrl_c().await) }).await?;
    server.close().await;
    Ok(())
}
