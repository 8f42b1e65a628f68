//! Why either side of Freehold believes the other: statements, signatures, acceptance. No I/O.
