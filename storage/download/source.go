package download

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// Source is the way of one repository to a blob.
type Source struct {
	Repository storage.RepoID
	// Client names the credential that Open uses, if that is a client's own, and the mirrors
	// that the client's request has passed; "" is neither. The failure of one client's
	// download is not that of another client.
	Client string
	// Size is the content's size as the repository's record has it; 0 if it is not
	// known. Stored content of another size is damaged.
	Size int64
	// Start and End are the range that the client asks for. An End of 0 or -1 is the end of
	// the content. If the range is far ahead, a download that begins for it does not fetch
	// these bytes twice.
	Start, End int64
	// Open opens the content at an offset, for length bytes or, if length is
	// -1, to its end. It resumes by itself after a broken connection; an error
	// that it returns, or a read error of its stream, is final. A call for a part
	// ([oci.WithPart]) fails with oci.ErrNoRange if the source sends none.
	Open func(ctx context.Context, offset, length int64) (*Stream, error)
	// Apart is set if the stored bytes and the downloads of other repositories are of
	// no use: the content is downloaded from the Source, by itself.
	Apart bool
	// Own is set if no [Origin] may be read: another mirror of the fleet could wait for the
	// mirror that the request comes from.
	Own bool
	// Lent, if set, reports whether the stored bytes may be used for Repository. Sources
	// with and without it share no downloads. It is called again before the content is
	// downloaded, since an earlier download may have changed the answer.
	Lent func(ctx context.Context) bool
	// Prove, if set, shows that Repository possesses the content of a download that
	// another repository started. It compares a part of the first have bytes, which
	// content reads, with those of the repository's own upstream; size is that of the
	// whole, -1 if it is not known yet. A reader calls it before its first byte and, with
	// have equal to size, before the last [spool.TailHold] bytes. Its error ends the
	// reader. Without it, all bytes may be read.
	Prove func(ctx context.Context, content io.ReadSeeker, have, size int64) error
	// Verified, if set, is called when the content is complete and verified,
	// before a lookup can find it in the store: a record about the content is
	// then never missing. Proven reports whether every stream that delivered a
	// part of the content proves that Repository possesses it.
	Verified func(info storage.Info, proven bool)

	spare bool // no client has asked for the content, see Group.Prefetch
}

// borrows reports whether the stored bytes may be used for the source.
func (s Source) borrows(ctx context.Context) bool {
	return !s.Apart && (s.Lent == nil || s.Lent(ctx))
}

// Origin is a source of blobs in front of all repositories' own upstreams, such as an
// object store that several mirrors share. Its bytes prove no right to them, so the Proves
// of its streams is false.
type Origin interface {
	// Open opens a blob from an offset to its end. Any error sends the download to its
	// next source, and so does a read error of the stream. After ErrTurn the origin is asked
	// again if the download is interrupted.
	Open(ctx context.Context, want Want) (*Stream, error)
}

// ErrTurn is the answer of an [Origin] that knows of other mirrors: it is the turn of this
// one to ask the upstreams, and the others wait for it.
var ErrTurn = errors.New("storage: it is the turn of this mirror to ask the upstreams")

// Want is the content that an [Origin] is asked for.
type Want struct {
	Digest digest.Digest
	Block  string // the key of the repository block that downloads it
	Offset int64
	// OnEnd, if set, registers a function that is called once: when the download has ended,
	// with whether its content was stored, or before that if the download pauses, or yields
	// its place. It is nil for a blob that is not downloaded but recalled.
	OnEnd func(ended func(stored bool))
}

// Stream delivers bytes of a blob.
type Stream struct {
	io.ReadCloser
	Size   int64  // of the whole content; -1 if the source does not say
	Origin string // the host that delivers, for logs and error messages
	// Proves reports whether the delivery shows that the repository possesses
	// the content. It does if the stream comes from the repository's own
	// upstream. Bytes of a peer or of an object store prove nothing.
	Proves bool
	// Reject, if set, tells the source that its bytes do not match the digest.
	// It reports whether a further attempt would ask another upstream. An Origin takes
	// the content out of its store.
	Reject func() bool
	// Resumes is set by an Origin that may know another place for the rest of the content
	// if the stream breaks off. It is asked again then, a bounded number of times.
	Resumes bool
	// Peer is set if the bytes come from another mirror of the same fleet.
	Peer bool
}
