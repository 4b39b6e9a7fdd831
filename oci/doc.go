// Package oci is the grammar of the OCI distribution and image specifications,
// once: names, references, platforms, media types, error documents, and the
// descriptors that a manifest holds. Everything that a client, an operator or an
// upstream writes is parsed here into a type, at the edge, and never again.
//
// It also holds [Registry], the one seam between the parts that ask for content
// and the parts that have it: a single upstream, an ordered chain of them, or
// anything that decorates either.
//
// The package is a leaf: it does no I/O and imports no other package of Weir.
package oci
