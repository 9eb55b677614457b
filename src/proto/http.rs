//! HTTP requests and responses (to be written).

#[derive(Clone, Debug)]
pub struct Request;
#[derive(Clone, Debug)]
pub struct Response;
