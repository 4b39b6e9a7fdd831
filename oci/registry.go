package oci

import (
	"context"
	"io"
	"net/url"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry answers the pull questions of the distribution-spec about the
// repositories of one registry. Access rules, recorders and the like decorate
// it. All methods may be called concurrently.
//
// Every error is either the context's or says in which of four ways the registry
// failed: not found, denied, rate limited or unavailable (see the sentinel errors
// of package upstream).
type Registry interface {
	// Manifest reads a manifest or an index. A manifest that was asked for by
	// digest is verified against it.
	Manifest(ctx context.Context, repo string, ref Reference) (*Manifest, error)
	// Head returns the descriptor of a manifest. Its MediaType is empty and its Size
	// is -1 if the registry does not tell them. The Body is nil, unless only the
	// manifest itself could tell.
	Head(ctx context.Context, repo string, ref Reference) (*Manifest, error)
	// Blob opens a blob at offset, for length bytes or, if length is -1, to its
	// end. The caller closes it.
	Blob(ctx context.Context, repo string, dgst digest.Digest, offset, length int64) (Blob, error)
	// StatBlob asks whether a blob exists. The Size is -1 if the registry does
	// not tell it.
	StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error)
	// Tags reads one page of a repository's tags. The query holds n and last, or
	// the Next of the page before.
	Tags(ctx context.Context, repo string, query url.Values) (*TagList, error)
	// Referrers reads all manifests whose subject is the given one, only those of
	// artifactType unless that is empty. The index is empty if there are none.
	Referrers(ctx context.Context, repo string, subject digest.Digest, artifactType string) (*Referrers, error)
}

// Manifest is an image manifest or an index, as a registry sent it.
type Manifest struct {
	Descriptor ocispec.Descriptor // made from the Body, if there is one, whatever headers said
	Body       []byte
	Upstream   string // host of the registry that sent it
	// Fallback is set if another registry than the first of a chain sent it: then a tag
	// may name another manifest as soon as the first one is back.
	Fallback bool
}

// Blob is a blob, or a part of one, as it arrives. It is for one goroutine.
type Blob interface {
	io.ReadCloser
	// Size is the length of the whole blob in bytes, -1 if it is not known.
	Size() int64
	// Upstream is the host of the registry that sends it at the moment.
	Upstream() string
	// Reject informs the registry that the bytes do not match their digest. It
	// reports whether opening the blob again may bring better ones.
	Reject() (elsewhere bool)
}

// TagList is one page of a repository's tags.
type TagList struct {
	Tags     []string
	Next     url.Values // the query of the next page; nil if this is the last one
	Upstream string     // host of the registry that sent it
}

// Referrers are the manifests that refer to a subject.
type Referrers struct {
	Index    ocispec.Index
	Upstream string // host of the registry that sent them
}
