//! The libpq that psycopg has loaded, by address.
