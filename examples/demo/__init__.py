"""A library of documents: fetched from a server, indexed, packed and stored, in three ways that are compared."""
