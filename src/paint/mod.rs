//! Drawing into pixels in memory: areas, text, letters of dots. What our own programs, the compositor's
//! notices and drawn box art share.
//!
//! It knows no Wayland, no file format and no window. `text` reads font files; nothing else does IO.
pub mod canvas;
pub mod dots;
pub mod text;
