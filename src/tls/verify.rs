//! Client certificates in the handshake: only possession of the private key is checked.
//!
//! Clients must be able to read "not paired" as an answer, so an unknown, expired or missing certificate
//! completes the handshake; an alert would make the host look offline. Signatures are verified on our
//! own reading of the certificate because webpki knows X.509 v3 only and some clients bring "v2".
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    UnparsedPublicKey,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};

use crate::proto::x509::Certificate;

/// Asks for a certificate, takes any or none, verifies the signature made with it.
#[derive(Clone, Copy, Debug)]
pub struct AnyClient;

/// What is offered, preferred first. TLS 1.3 uses the PSS half only.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

impl ClientCertVerifier for AnyClient {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, certificate, signed.scheme, signed.signature())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        use SignatureScheme::{RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512};
        if !matches!(signed.scheme, RSA_PSS_SHA256 | RSA_PSS_SHA384 | RSA_PSS_SHA512) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify(message, certificate, signed.scheme, signed.signature())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    scheme: SignatureScheme,
    signature: &[u8],
) -> Result<HandshakeSignatureValid, Error> {
    let algorithm =
        algorithm(scheme).ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let certificate =
        Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    UnparsedPublicKey::new(algorithm, certificate.public_key())
        .verify(message, signature)
        .map_err(|_| CertificateError::BadSignature)?;
    Ok(HandshakeSignatureValid::assertion())
}

const fn algorithm(scheme: SignatureScheme) -> Option<&'static RsaParameters> {
    Some(match scheme {
        SignatureScheme::RSA_PSS_SHA256 => &RSA_PSS_2048_8192_SHA256,
        SignatureScheme::RSA_PSS_SHA384 => &RSA_PSS_2048_8192_SHA384,
        SignatureScheme::RSA_PSS_SHA512 => &RSA_PSS_2048_8192_SHA512,
        SignatureScheme::RSA_PKCS1_SHA256 => &RSA_PKCS1_2048_8192_SHA256,
        SignatureScheme::RSA_PKCS1_SHA384 => &RSA_PKCS1_2048_8192_SHA384,
        SignatureScheme::RSA_PKCS1_SHA512 => &RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::hex::decode;

    /// A throw-away certificate with a 1024-bit key, and that key's signature (SHA-256) of "message".
    const SMALL: &str = "308201fc30820165a003020102021478e1c1c47569445859cf73c6bf5aebaf55561d0f300d06092a864886f7\
        0d01010b05003010310e300c06035504030c05736d616c6c301e170d3236313132343131313430315a170d33\
        36313132313131313430315a3010310e300c06035504030c05736d616c6c30819f300d06092a864886f70d01\
        0101050003818d0030818902818100cdbdd4b558163c20a99d452c2ac35011593dac9a653df46b5b83ff2f3a\
        0e17522b9e3cc9dd1bf6509d22c7f6ccf5b7c9f34d8839aee0d0298026cbed92cef8acc2d08e54846542c76a\
        bd2952f4a1dc81768fa257f398a4e230463ff0258b2829436bc7265a3f95d8f78e57ddf1c6003301bea8c785\
        578c77e4f967319188c3c30203010001a3533051301d0603551d0e04160414256ee1f35bde9fe62da12ad7bd\
        8fdc6cd8e87289301f0603551d23041830168014256ee1f35bde9fe62da12ad7bd8fdc6cd8e87289300f0603\
        551d130101ff040530030101ff300d06092a864886f70d01010b0500038181005c6c7ac6fa5a4893a54550f6\
        4358813e3e6506c8a4183bb1981ea48aef6a2aa64bead66c484f8e8f0a764555367e1ddc0acf958cd4a3948f\
        ad6b98f684a42724c07c2bc334f4a2e03c109fac1ca5d07267cbccb2b6b2ab2e251b30cd4e75235b3113f85c\
        5b4169b05ca3d4861365e657041258f86ffa3f05b2ff24a40e44ba4b";
    const SIGNED: &str = "2b09e503fb48b66d035d9f1f486c2dfdd2162fc978f2e2c3992df1400bfc66095461292ceb5ed50ccbda5775\
        0247cd1080a4601adc47c2b40efa818853a379f26548b5527ff3f28c677bc2c08ac34ff7f34bba14d23ae052\
        c61eeb4e9dc03cf5465d7582c0b59310489bb9415e99f0c57860339efcfdc18e163c8bf11cb9653b";

    #[test]
    fn a_genuine_signature_of_a_small_key_is_refused() {
        let certificate = decode(SMALL).unwrap();
        let signature = decode(SIGNED).unwrap();
        let public = Certificate::from_der(&certificate).unwrap();
        let genuine = UnparsedPublicKey::new(
            &aws_lc_rs::signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            public.public_key(),
        );
        genuine.verify(b"message", &signature).unwrap();
        let scheme = SignatureScheme::RSA_PKCS1_SHA256;
        let result = verify(b"message", &certificate.into(), scheme, &signature);
        assert_eq!(result.err(), Some(CertificateError::BadSignature.into()));
    }
}
