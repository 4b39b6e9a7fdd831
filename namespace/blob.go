package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/upstream"
)

// Blob is the answer to a request for a blob.
type Blob struct {
	Outcome
	Size int64 // bytes; -1 if no upstream gives it
	// Content reads the blob; the caller closes it. It can seek if the Size is
	// known. After a read error the client must not take the bytes for the whole
	// blob. Content is nil if only the size was asked for.
	Content io.ReadSeekCloser
}

// Blob returns a blob, of which the caller is going to read from byte start up to,
// and without, byte end; -1 is the blob's end. The range shapes the request to an
// upstream; the caller can read all of the blob. The context bounds all reading.
// Blob returns an *OfflineError, storage.ErrCorrupt, or an error of package upstream.
func (n *Namespace) Blob(ctx context.Context, repo string, dgst digest.Digest, start, end int64) (*Blob, error) {
	id := n.repoID(repo)
	if n.spec.Offline {
		return n.storedBlob(ctx, id, dgst)
	}
	if err := n.permit(ctx, id, dgst); err != nil {
		return nil, err
	}
	b, err := n.awaitBlob(ctx, id, dgst, start, end, false)
	if errors.Is(err, errNotShown) {
		b, err = n.awaitBlob(ctx, id, dgst, start, end, true)
	}
	if err != nil {
		return nil, err
	}
	n.cache.ahead.asked(aheadKey{n.Key(), dgst})
	// A puller that asks for parts of layers may never want the whole ones.
	if b.reader != nil && !b.reader.Joined() && start == 0 && end < 0 {
		n.prefetchBeside(ctx, id, dgst)
	}
	return &b.Blob, nil
}

// awaitBlob opens a blob, and waits for the first bytes of its download.
func (n *Namespace) awaitBlob(ctx context.Context, id storage.RepoID, dgst digest.Digest, start, end int64, apart bool) (*openedBlob, error) {
	b, err := n.openBlob(ctx, id, dgst, start, end, apart)
	if err != nil {
		return nil, err
	}
	// A stored blob is open already. Of a download the first bytes are awaited,
	// since its failure must become an answer of its own.
	if b.reader != nil {
		if b.Size, err = await(b.reader, start, end); err != nil {
			b.Content.Close()
			n.rememberNegative(ctx, blobKey(id, dgst), err)
			return nil, err
		}
		b.Outcome = downloading(b.reader)
	}
	return b, nil
}

// openedBlob is a blob that is stored, or whose download is under way.
type openedBlob struct {
	Blob
	reader *download.Reader // the Content if the blob is being downloaded, else nil
}

// openBlob opens a blob, of which the range from start to end is wanted, that is stored, or
// else joins or starts its download and does not wait for it. If it is apart, the repository downloads the blob for itself, since
// its upstream could not show that it has the bytes that another repository brought.
func (n *Namespace) openBlob(ctx context.Context, repo storage.RepoID, dgst digest.Digest, start, end int64, apart bool) (*openedBlob, error) {
	removed := n.cache.removals.of(repo)
	// Before the download: its end writes the link, too.
	link, possessed := n.link(ctx, repo, dgst)
	if err := n.cache.negativeHit(ctx, blobKey(repo, dgst)); err != nil {
		return nil, err
	}
	source := n.source(ctx, repo, dgst)
	source.Start, source.End = start, end
	source.Size, source.Apart, source.Lent = link.Size, apart && !possessed, n.cache.lent(repo, dgst)
	if err := n.checkLoop(ctx, repo, dgst, source); err != nil {
		return nil, err
	}
	if !possessed {
		source.Prove = func(ctx context.Context, content io.ReadSeeker, have, size int64) error {
			return n.prove(ctx, repo, dgst, content, have, size, removed)
		}
	}
	obj, reader, err := n.cache.downloads.Open(ctx, dgst, source)
	if err != nil {
		return nil, err
	}
	// A reader follows a running download. Without one the blob is stored.
	if reader != nil {
		return &openedBlob{Blob: Blob{Content: reader}, reader: reader}, nil
	}
	b := &openedBlob{Blob: Blob{Outcome: Outcome{Cache: Hit}, Size: obj.Size, Content: obj.Content}}
	if !possessed {
		// This repository's own download may have ended meanwhile.
		link, possessed = n.link(ctx, repo, dgst)
	}
	if possessed {
		o, err := n.recheck(ctx, repo, link)
		if err != nil {
			obj.Content.Close()
			return nil, err
		}
		if o.Cache != None {
			b.Outcome = o
		}
		return b, nil
	}
	// The bytes came from another repository, which proves nothing for this one.
	err = source.Prove(ctx, obj.Content, obj.Size, obj.Size)
	if err == nil {
		_, err = obj.Content.Seek(0, io.SeekStart)
	}
	if err != nil {
		obj.Content.Close()
		return nil, err
	}
	b.Outcome = Outcome{Cache: Revalidated, Upstream: n.FirstUpstream()}
	return b, nil
}

// checkLoop returns an error if a blob is not stored for its source, and a download of it
// could wait for the mirror that the request comes from. A HEAD, which waits for no download,
// shows whether an upstream leads back there. One blob is not downloaded twice at a
// time for that, so the other mirror goes on to its next upstream.
func (n *Namespace) checkLoop(ctx context.Context, repo storage.RepoID, dgst digest.Digest, source download.Source) error {
	if n.apart(ctx) == "" || n.cache.downloads.Stored(ctx, dgst, source) {
		return nil
	}
	_, _, err := share(ctx, n, n.cache.access, lookupKey{repo, findLoop, oci.ByDigest(dgst)}, nil, func(ctx context.Context) (none ocispec.Descriptor, err error) {
		ctx = via.Watch(ctx)
		_, err = n.spec.Upstreams.StatBlob(ctx, repo.Name, dgst)
		if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.Loop() {
			return none, failed
		}
		if via.Looped(ctx) {
			return none, upstream.NewLoop(n.FirstUpstream(), repo.Name, dgst)
		}
		return none, nil // the download reports any other failure
	})
	return err
}

// await waits for the first bytes of a download from start on. If an upstream was
// asked for a range that begins beyond the end, await waits for the download
// itself, since the answer to such a client holds the size.
func await(r *download.Reader, start, end int64) (size int64, err error) {
	size, err = r.Wait(start, end)
	if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.Status == http.StatusRequestedRangeNotSatisfiable {
		return r.Wait(0, -1)
	}
	// Without a size there are no ranges, and the client gets the whole.
	if err == nil && size < 0 && start > 0 {
		return r.Wait(0, -1)
	}
	return size, err
}

// downloading is the outcome of a blob that is being downloaded.
func downloading(r *download.Reader) Outcome {
	o := Outcome{Cache: Miss, Upstream: r.Origin(), FromPeer: r.FromPeer()}
	switch {
	case r.Joined(), o.FromPeer: // of this mirror, or of a fleet
		o.Cache = Collapsed
	case !r.Stored():
		o.Cache = Passed
	}
	return o
}

// BrokeOff notes that stored content could not be sent to its end. It reports whether
// the store is the cause and not the client. Then the next request fetches the content
// again.
func (n *Namespace) BrokeOff(ctx context.Context, dgst digest.Digest, err error) bool {
	// The client's request ends with its connection.
	return n.cache.brokeOff != nil && n.cache.brokeOff(context.WithoutCancel(ctx), dgst, err)
}

// HeadBlob returns a blob's size. A blob that is neither stored nor in the bucket, or that
// only other repositories possess, costs a HEAD upstream, and nothing is recorded: the answer
// to a HEAD proves no possession.
func (n *Namespace) HeadBlob(ctx context.Context, repo string, dgst digest.Digest) (*Blob, error) {
	id := n.repoID(repo)
	if n.spec.Offline {
		return n.storedHead(ctx, id, dgst)
	}
	if err := n.permit(ctx, id, dgst); err != nil {
		return nil, err
	}
	// Both are needed: this repository's right to the bytes, and the bytes. Without the
	// right the store is not searched, which would be a use of content of others.
	link, possessed := n.link(ctx, id, dgst)
	if possessed {
		// Content that is unavailable, or has another size, is fetched by the next GET.
		if size, ok := n.cache.sizeOf(ctx, link); ok {
			o, err := n.recheck(ctx, id, link)
			if err != nil {
				return nil, err
			}
			if o.Cache == None {
				o.Cache = Hit
			}
			return &Blob{Outcome: o, Size: size}, nil
		}
	}
	if err := n.cache.negativeHit(ctx, blobKey(id, dgst)); err != nil {
		return nil, err
	}
	desc, err := n.statBlob(ctx, id, dgst)
	if err != nil {
		return nil, err
	}
	return &Blob{Outcome: Outcome{Cache: Passed, Upstream: n.FirstUpstream()}, Size: desc.Size}, nil
}

// storedHead returns a blob's size without contacting an upstream. A bucket is asked for it,
// not read.
func (n *Namespace) storedHead(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (*Blob, error) {
	if link, possessed := n.link(ctx, repo, dgst); possessed {
		if size, ok := n.cache.sizeOf(ctx, link); ok {
			return &Blob{Outcome: Outcome{Cache: Hit}, Size: size}, nil
		}
	}
	// A damaged one is logged, and other mirrors may have one that is missing.
	b, err := n.storedBlob(ctx, repo, dgst)
	if err != nil {
		return nil, err
	}
	b.Content.Close()
	b.Content = nil
	return b, nil
}

// storedBlob opens a blob without contacting an upstream.
func (n *Namespace) storedBlob(ctx context.Context, repo storage.RepoID, dgst digest.Digest) (*Blob, error) {
	link, possessed := n.link(ctx, repo, dgst)
	if !possessed {
		return nil, n.offline("blob " + dgst.String())
	}
	obj, err := n.cache.store.Open(ctx, dgst)
	if errors.Is(err, storage.ErrNotExist) {
		return n.recallBlob(ctx, repo, link)
	}
	if err != nil {
		return nil, err
	}
	// A part must not pass for the whole. There is no upstream to fetch it from.
	if damaged(link, obj.Info) {
		obj.Content.Close()
		n.logger.Warn("a stored blob is damaged, and its block is offline. Set offline = false until it has been pulled again",
			"repository", repo.String(), "digest", dgst, "bytes", obj.Size, "recorded", link.Size)
		return nil, n.offline("blob " + dgst.String())
	}
	return &Blob{Outcome: Outcome{Cache: Hit}, Size: obj.Size, Content: obj.Content}, nil
}

// source is a repository's way to the bytes of a blob. A complete download from
// the repository's own upstream also proves that the repository may serve it.
func (n *Namespace) source(ctx context.Context, repo storage.RepoID, dgst digest.Digest) download.Source {
	// A download outlives its client's context. Of that it needs the mirrors that
	// the request has passed, and the client's credential, which only a request upstream opens.
	trail := via.From(ctx)
	credential, onBehalf := upstream.ConcealedOf(ctx)
	return download.Source{
		Repository: repo,
		Client:     clientName(upstream.ClientOf(ctx), trail),
		Own:        n.mayLoop(ctx),
		Open: func(ctx context.Context, offset, length int64) (*download.Stream, error) {
			ctx = via.With(ctx, trail)
			if onBehalf {
				ctx = upstream.OnBehalf(ctx, credential)
			}
			// The middle of a blob that was there a moment ago is asked for in any case.
			if offset == 0 {
				if err := n.refusedElsewhere(ctx, blobKey(repo, dgst)); err != nil {
					return nil, err
				}
			}
			body, err := n.spec.Upstreams.Blob(ctx, repo.Name, dgst, offset, length)
			if errors.Is(err, oci.ErrNoRange) {
				return nil, err // it says nothing about the blob
			}
			if err != nil {
				n.noteRight(ctx, repo, blobProof, "", err)
				// Before the turn ends, so that the next replica need not ask.
				n.tellRefusal(ctx, blobKey(repo, dgst), err)
				return nil, err
			}
			return &download.Stream{ReadCloser: body, Size: body.Size(), Origin: body.Upstream(), Proves: true, Reject: body.Reject}, nil
		},
		Verified: func(info storage.Info, proven bool) {
			if !proven {
				return // another lookup asks the repository's own upstream
			}
			n.cache.putLink(context.Background(), repo, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
			n.cache.putDelivery(context.Background(), repo, info.Digest)
		},
	}
}

// clientName names all of a client's request that the requests upstream for it depend on.
func clientName(client string, trail via.Trail) string {
	if len(trail) == 0 {
		return client
	}
	return fmt.Sprint(trail, " ", client) // an ID of a mirror has no blanks
}

// CompleteOrAbandon decides about a download that all clients have left: a job of
// the pool completes it, or it is abandoned if the pool has no room for a job.
func CompleteOrAbandon(pool *jobs.Pool) func(*download.Download) {
	return func(d *download.Download) {
		complete := func(ctx context.Context) error {
			err := d.Complete(ctx)
			forgotten := errors.Is(err, download.ErrForgotten)
			if ctx.Err() != nil || forgotten {
				d.Abandon() // else it would wait for a client that may never come
			}
			if forgotten {
				return nil
			}
			return err
		}
		if !pool.Submit(completing{d}, complete) {
			d.Abandon()
		}
	}
}

// completing is the key of the job that completes a download. It is the download,
// not the digest: a job for a download that has failed must not stand for the next
// download of the same digest.
type completing struct{ download *download.Download }

func (c completing) Block() string { return c.download.Namespace() }

func (c completing) String() string { return "complete " + c.download.Digest().String() }
