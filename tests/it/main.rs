//! Everything over real sockets, in one binary.

mod upstream;
