//! What applications ask an agent: encrypt, decrypt, sign, verify, and their answers.
