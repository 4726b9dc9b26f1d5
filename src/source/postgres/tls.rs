//! TLS towards PostgreSQL, as libpq means it: `prefer` and `require` encrypt without verifying, `verify-ca` verifies the
//! chain, `verify-full` also the name. The only place of this room that names rustls.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{Connection, SslMode};

/// The connector for a connection's mode and certificates.
/// # Errors
/// A text: a certificate or key file that cannot be used.
pub fn connector(connection: &Connection) -> Result<MakeRustlsConnect, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(connection, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client_certificate(connection)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("The client certificate cannot be used: {error}"))?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = connection.get("sslsni") != Some("0");
    if connection.get("sslnegotiation") == Some("direct") {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

fn verifier(connection: &Connection, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let root = match connection.get("sslrootcert") {
        Some("system") => None,
        Some(path) => Some(PathBuf::from(path)),
        None => connection.home().map(|home| home.join(".postgresql/root.crt")).filter(|path| path.exists()),
    };
    let (chain, name) = match (connection.ssl_mode(), &root) {
        (SslMode::VerifyFull, _) => (true, true),
        // libpq: `require` with a root certificate file verifies as `verify-ca` does.
        (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => (true, false),
        _ => (false, false),
    };
    let inner: Option<Arc<dyn ServerCertVerifier>> = match (chain, root) {
        (false, _) => None,
        (true, Some(path)) => Some(
            WebPkiServerVerifier::builder_with_provider(Arc::new(root_store(&path)?), Arc::clone(provider))
                .build()
                .map_err(|error| format!("Root certificates {} cannot be used: {error}", path.display()))?,
        ),
        (true, None) => Some(Arc::new(
            rustls_platform_verifier::Verifier::new(Arc::clone(provider))
                .map_err(|error| format!("The system's root certificates cannot be used: {error}"))?,
        )),
    };
    Ok(Arc::new(LibpqVerifier { inner, name, provider: Arc::clone(provider) }))
}

fn root_store(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| format!("{} holds a bad certificate: {error}", path.display()))?;
    }
    if store.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(store) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |error: std::io::Error| format!("Cannot read certificates from {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(fail)?;
    rustls_pemfile::certs(&mut BufReader::new(file)).collect::<Result<_, _>>().map_err(fail)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(connection: &Connection) -> Result<Option<ClientCertificate>, String> {
    let file = |keyword: &str, name: &str| {
        let default = || connection.home().map(|home| home.join(".postgresql").join(name)).filter(|path| path.exists());
        connection.get(keyword).map(PathBuf::from).or_else(default)
    };
    let (Some(certificate), Some(key)) = (file("sslcert", "postgresql.crt"), file("sslkey", "postgresql.key")) else {
        return Ok(None);
    };
    if connection.get("sslcertmode") == Some("disable") {
        return Ok(None);
    }
    let fail = |reason: String| format!("Cannot read the client key {}: {reason}", key.display());
    let opened = std::fs::File::open(&key).map_err(|error| fail(error.to_string()))?;
    let private = rustls_pemfile::private_key(&mut BufReader::new(opened))
        .map_err(|error| fail(error.to_string()))?
        .ok_or_else(|| fail("it holds no unencrypted key".to_owned()))?;
    Ok(Some((certificates(&certificate)?, private)))
}

/// Verifies as much as the mode asks for. The proof that the server owns its certificate's key is always asked.
#[derive(Debug)]
struct LibpqVerifier {
    inner: Option<Arc<dyn ServerCertVerifier>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for LibpqVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is verified before the name, so this says that the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What went wrong with a session, as one text: the server's own words first, the causes otherwise.
pub fn explain(error: &postgres::Error) -> String {
    if let Some(server) = error.as_db_error() {
        return server.message().to_owned();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    if text.contains("CaUsedAsEndEntity") {
        text = "the server's certificate is itself a certificate authority (CA:TRUE), which cannot be verified here \
                although libpq accepts it; give the server a certificate with basicConstraints=CA:FALSE that is \
                signed by your authority, or use sslmode=require, which encrypts without verifying"
            .to_owned();
    }
    text
}
