package namespace

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/upstream"
)

// Blob is the answer to a question for a blob.
type Blob struct {
	Outcome
	Size int64 // bytes; -1 when no upstream says
	// Content reads the blob; the caller closes it. Of a blob whose size is
	// known it can seek. A read error means that the client must not take what
	// it got for whole. Content is nil when only the size was asked for.
	Content io.ReadSeekCloser
}

// Blob returns a blob, of which the caller is going to read from byte start up
// to, and without, byte end; -1 is the blob's end. This shapes what is asked of
// an upstream, not what can be read. The context bounds all reading. Errors are
// ErrOffline, storage.ErrCorrupt and those of package upstream.
func (n *Namespace) Blob(ctx context.Context, repo string, dgst digest.Digest, start, end int64) (*Blob, error) {
	id := n.id(repo)
	if n.spec.Offline {
		return n.storedBlob(ctx, id, dgst)
	}
	b, err := n.openBlob(ctx, id, dgst)
	if err != nil {
		return nil, err
	}
	if b.reader != nil {
		if b.Size, err = await(b.reader, start, end); err != nil {
			b.Content.Close()
			n.remember(question{id, "blob", dgst.String()}, err)
			return nil, err
		}
		b.Outcome = arriving(b.reader)
	}
	n.linkForeign(ctx, id, dgst, b)
	return &b.Blob, nil
}

// opened is a blob that is stored, or whose download is under way.
type opened struct {
	Blob
	reader  *download.Reader // the Content where that is being downloaded; else nil
	foreign bool             // another repository brought it, or is bringing it
}

// openBlob opens a blob that is stored, or else joins or starts its download and
// does not wait for it.
func (n *Namespace) openBlob(ctx context.Context, id storage.RepoID, dgst digest.Digest) (*opened, error) {
	_, err := n.cache.catalog.Link(ctx, id, dgst)
	possessed := err == nil
	if err := n.cache.refused(question{id, "blob", dgst.String()}); err != nil {
		return nil, err
	}
	obj, reader, err := n.cache.flights.Open(ctx, dgst, n.source(id, dgst))
	if err != nil {
		return nil, err
	}
	b := &opened{Blob: Blob{Outcome: Outcome{Cache: Hit}}, reader: reader}
	if reader != nil {
		b.Content = reader
	} else {
		b.Content, b.Size = obj.Content, obj.Size
	}
	// The bytes may be here because another repository brought them.
	b.foreign = !possessed && (reader == nil || reader.Repository() != id)
	if b.foreign {
		if _, err := n.prove(ctx, id, dgst); err != nil {
			b.Content.Close()
			return nil, err
		}
		b.Outcome = Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}
	}
	return b, nil
}

// linkForeign records that a repository possesses what another one brought,
// which its upstream has just said.
func (n *Namespace) linkForeign(ctx context.Context, id storage.RepoID, dgst digest.Digest, b *opened) {
	if b.foreign && b.Size >= 0 {
		n.cache.putLink(ctx, id, ocispec.Descriptor{Digest: dgst, Size: b.Size})
	}
}

// await waits for the first bytes of a download from start on. Where an upstream
// was asked for a range that begins beyond the end, it waits for the download
// itself, which tells the size that such a client is answered with.
func await(r *download.Reader, start, end int64) (size int64, err error) {
	size, err = r.Wait(start, end)
	if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.Status == http.StatusRequestedRangeNotSatisfiable {
		return r.Wait(0, -1)
	}
	return size, err
}

// arriving is the outcome of a blob that is being downloaded.
func arriving(r *download.Reader) Outcome {
	o := Outcome{Cache: Miss, Upstream: r.Origin()}
	switch {
	case r.Joined():
		o.Cache = Collapsed
	case !r.Stored():
		o.Cache = Passed
	}
	return o
}

// HeadBlob returns a blob's size. What is not cached costs a HEAD upstream, and
// nothing is stored.
func (n *Namespace) HeadBlob(ctx context.Context, repo string, dgst digest.Digest) (*Blob, error) {
	id := n.id(repo)
	if n.spec.Offline {
		b, err := n.storedBlob(ctx, id, dgst)
		if err != nil {
			return nil, err
		}
		b.Content.Close()
		b.Content = nil
		return b, nil
	}
	info, missing := n.cache.store.Stat(ctx, dgst)
	if _, foreign := n.cache.catalog.Link(ctx, id, dgst); foreign == nil && missing == nil {
		return &Blob{Outcome: Outcome{Cache: Hit}, Size: info.Size}, nil
	}
	if err := n.cache.refused(question{id, "blob", dgst.String()}); err != nil {
		return nil, err
	}
	desc, err := n.prove(ctx, id, dgst)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		return &Blob{Outcome: Outcome{Cache: Passed, Upstream: n.FirstUpstream()}, Size: desc.Size}, nil
	}
	n.cache.putLink(ctx, id, ocispec.Descriptor{Digest: dgst, Size: info.Size})
	return &Blob{Outcome: Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}, Size: info.Size}, nil
}

// storedBlob opens a blob without contacting an upstream.
func (n *Namespace) storedBlob(ctx context.Context, id storage.RepoID, dgst digest.Digest) (*Blob, error) {
	if _, err := n.cache.catalog.Link(ctx, id, dgst); err != nil {
		return nil, n.offline("blob " + dgst.String())
	}
	obj, err := n.cache.store.Open(ctx, dgst)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, n.offline("blob " + dgst.String())
	}
	if err != nil {
		return nil, err
	}
	return &Blob{Outcome: Outcome{Cache: Hit}, Size: obj.Size, Content: obj.Content}, nil
}

// prove asks the upstream whether a repository has a blob: that its bytes are
// here does not mean that this repository's readers may have them.
func (n *Namespace) prove(ctx context.Context, id storage.RepoID, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc, _, err := share(ctx, n.cache.proofs, question{id, "proof", dgst.String()}, func(ctx context.Context) (ocispec.Descriptor, error) {
		desc, err := n.spec.Upstreams.StatBlob(ctx, id.Name, dgst)
		if err != nil {
			n.remember(question{id, "blob", dgst.String()}, err)
		}
		return desc, err
	})
	return desc, err
}

// source is a repository's way to a blob.
func (n *Namespace) source(id storage.RepoID, dgst digest.Digest) download.Source {
	return download.Source{
		Repository: id,
		Open: func(ctx context.Context, offset, length int64) (*download.Stream, error) {
			body, err := n.spec.Upstreams.Blob(ctx, id.Name, dgst, offset, length)
			if err != nil {
				return nil, err
			}
			return &download.Stream{ReadCloser: body, Size: body.Size(), Origin: body.Upstream(), Reject: body.Reject}, nil
		},
		Verified: func(info storage.Info) {
			n.cache.putLink(context.Background(), id, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
		},
	}
}

// CompleteOrAbandon is what becomes of a download that all clients have left: a
// job of the pool completes it, and where there is no room for one it is given
// up.
func CompleteOrAbandon(pool *jobs.Pool) func(*download.Download) {
	return func(f *download.Download) {
		if !pool.Submit(completing{f}, f.Complete) {
			f.Abandon()
		}
	}
}

// completing is the job that completes a download. Its key is the download, not
// the digest: a job for a download that has failed must not stand for the next
// download of the same digest.
type completing struct{ flight *download.Download }

func (c completing) String() string { return "complete " + c.flight.Digest().String() }
