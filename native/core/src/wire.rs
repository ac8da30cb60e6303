//! pgoutput, protocol versions 1 to 4, parsed without copying.
