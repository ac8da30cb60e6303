//! In-progress transactions, kept until their outcome is known.
