package download

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// Follower reads the spool of a running download for another mirror, which continues by
// itself if the download fails. It holds the download as a reader does, but has no source of
// its own and needs no proof: the other mirror's repository proves its possession there.
type Follower struct {
	download *Download
	reader   *spool.Reader
	size     int64
	off      int64
}

// Follow opens the running download of a digest in a block, at an offset. It waits until the
// size of the content is known, if the source gives it. It returns
// storage.ErrNotExist if there is no such download, or if the store has the content by now.
func (g *Group) Follow(ctx context.Context, dgst digest.Digest, block string, offset int64) (*Follower, error) {
	d := g.joinable(dgst, block)
	if d == nil {
		return nil, fmt.Errorf("%w: no download of %s runs", storage.ErrNotExist, dgst)
	}
	d.attend(1)
	f := &Follower{download: d}
	if err := f.open(ctx, offset); err != nil {
		f.leave()
		return nil, err
	}
	return f, nil
}

// joinable returns the running download of a digest in a block, held once more, or nil. One
// that is apart is of no use to other repositories.
func (g *Group) joinable(dgst digest.Digest, block string) *Download {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, lent := range []bool{false, true} {
		if d := g.downloads[key{dgst, storage.RepoID{Namespace: block}, lent}]; d != nil {
			d.hold()
			return d
		}
	}
	return nil
}

func (f *Follower) open(ctx context.Context, offset int64) error {
	d := f.download
	found, err := d.awaitSearch(ctx)
	switch {
	case err != nil:
		return err
	case found:
		return fmt.Errorf("%w: the download of %s has ended", storage.ErrNotExist, d.digest)
	}
	select {
	case <-d.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	v := d.view()
	if v.spool == nil { // it ended without a byte
		return fmt.Errorf("the download of %s has ended: %w", d.digest, v.err)
	}
	f.size = v.spool.Size()
	if f.reader, err = v.spool.NewReader(ctx); err != nil {
		return err
	}
	f.off, err = f.reader.Seek(offset, io.SeekStart)
	return err
}

// Size returns the size of the whole content, or -1 if it is not known.
func (f *Follower) Size() int64 { return f.size }

// Link makes the traces of the download and of its follower refer to each other. It returns
// the place of the download's, which is not valid if that is not traced.
func (f *Follower) Link(follower trace.SpanContext) trace.SpanContext {
	span := f.download.span
	if span.IsRecording() && follower.IsValid() {
		span.AddLink(trace.Link{SpanContext: follower})
	}
	return span.SpanContext()
}

// Read reads on, and waits for bytes that are not there yet. Only io.EOF says that the
// content is complete and verified.
func (f *Follower) Read(p []byte) (int, error) {
	n, err := f.reader.Read(p)
	f.off += int64(n)
	return n, err
}

// Stretch waits for bytes and returns the next ones, at most limit or, if that is -1, any number,
// as a part of the download's file: the kernel can send them. The caller reports by Advance how
// many it has used, and no longer uses the part. Stretch returns nil if the next bytes have to be
// Read, which also returns the errors: they are the withheld tail, or the download has failed.
func (f *Follower) Stretch(limit int64) *io.LimitedReader {
	return f.reader.Stretch(stretchLimit(f.off, f.size, limit))
}

// Advance moves the offset past n bytes of a Stretch.
func (f *Follower) Advance(n int64) {
	f.reader.Advance(n)
	f.off += n
}

// Close gives up the hold on the download.
func (f *Follower) Close() error {
	f.leave()
	return nil
}

func (f *Follower) leave() {
	if f.reader != nil {
		f.reader.Close()
	}
	d := f.download
	d.attend(-1)
	d.leave(d.group.opts.OnUnattended)
}
