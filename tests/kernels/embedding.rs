rows! {}
