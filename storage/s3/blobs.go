package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const blobsName = "blobs"

// Stat asks for the object's header.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	return s.stat(ctx, dgst, s.opts.OperationTimeout)
}

// stat is Stat within a time of its own.
func (s *Store) stat(ctx context.Context, dgst digest.Digest, limit time.Duration) (storage.Info, error) {
	key, err := s.blobKey(dgst)
	if err != nil {
		return storage.Info{}, err
	}
	size, err := s.headWithin(ctx, key, limit)
	if errors.Is(err, storage.ErrNotExist) {
		s.gone(dgst)
	}
	if err != nil {
		return storage.Info{}, err
	}
	s.there(dgst, size)
	return storage.Info{Digest: dgst, Size: size}, nil
}

// head returns the size of an object.
func (s *Store) head(ctx context.Context, key string) (size int64, err error) {
	return s.headWithin(ctx, key, s.opts.OperationTimeout)
}

func (s *Store) headWithin(ctx context.Context, key string, limit time.Duration) (size int64, err error) {
	err = s.within(ctx, opHead, limit, func(ctx context.Context) error {
		object, err := s.client.StatObject(ctx, s.opts.Bucket, key, minio.StatObjectOptions{})
		if err == nil && object.Size < 0 {
			err = errors.New("the object has no length")
		}
		size = object.Size
		return err
	})
	return size, err
}

// Open opens the content. It can seek: each place that is read next costs a request.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	body, size, err := s.OpenAt(ctx, dgst, 0)
	if err != nil {
		return nil, err
	}
	return &storage.Object{
		Info:    storage.Info{Digest: dgst, Size: size},
		Content: &content{ctx: ctx, store: s, digest: dgst, size: size, body: body},
	}, nil
}

// OpenAt opens the content at an offset, and returns the size of the whole. It waits some
// seconds for the first byte, and as long for each further one. A body that ends early, or
// that is very slow, is an error of its reader, and no io.EOF. After several of them in a
// row the content of the bucket is not read for a while.
func (s *Store) OpenAt(ctx context.Context, dgst digest.Digest, offset int64) (io.ReadCloser, int64, error) {
	key, err := s.blobKey(dgst)
	if err != nil {
		return nil, 0, err
	}
	if s.discarded.Contains(dgst) {
		return nil, 0, &Error{Operation: string(opGet), Reason: Missing, err: errors.New("the object has other bytes")}
	}
	reads, err := s.bodies.enter(time.Now())
	if err != nil {
		s.opts.Metrics.ended(opGet, paused, 0)
		return nil, 0, err
	}
	reading, cancel := context.WithCancelCause(ctx)
	var opened *body
	err = s.within(ctx, opGet, min(firstByte, s.opts.OperationTimeout), func(limited context.Context) error {
		// The body is read after the wait for its first byte, so it has a context of its own.
		stop := context.AfterFunc(limited, func() { cancel(errTimeout) })
		defer stop()
		opened, err = s.get(reading, key, offset)
		return err
	})
	if err != nil {
		cancel(nil)
		reads.abandon()
		if errors.Is(err, storage.ErrNotExist) {
			s.gone(dgst)
		}
		return nil, 0, err
	}
	s.there(dgst, opened.total)
	s.used(dgst)
	opened.ctx, opened.cancel, opened.reads = reading, cancel, reads
	return opened, opened.total, nil
}

// get sends the request for an object from an offset on.
func (s *Store) get(ctx context.Context, key string, offset int64) (*body, error) {
	var opts minio.GetObjectOptions
	if offset > 0 {
		if err := opts.SetRange(offset, 0); err != nil {
			return nil, err
		}
	}
	stream, object, header, err := s.client.GetObject(ctx, s.opts.Bucket, key, opts)
	if err != nil {
		return nil, err
	}
	b := &body{stream: stream, metrics: s.opts.Metrics, left: object.Size, total: object.Size}
	if offset > 0 {
		var from, to, total int64
		// RFC 9110, section 14.4. A server that does not know ranges sends the whole.
		if _, err := fmt.Sscanf(header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); err != nil || from != offset || total <= offset || to != total-1 {
			stream.Close()
			return nil, fmt.Errorf("the answer to a range is not that range: %.100q", header.Get("Content-Range"))
		}
		b.left, b.total = total-offset, total
	}
	if b.total < 0 {
		stream.Close()
		return nil, errors.New("the answer has no length")
	}
	return b, nil
}

// body reads an object to its announced end.
type body struct {
	stream  io.ReadCloser
	metrics *Metrics
	left    int64           // bytes until the end
	total   int64           // of the whole object
	ctx     context.Context // of the stream
	cancel  context.CancelCauseFunc
	reads   pass // of the whole body
	told    bool // reads has ended

	waited time.Duration // for the last got bytes
	got    int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	// A server that sends no byte is distinguished from a slow one.
	begun := time.Now()
	watch := time.AfterFunc(stall, func() { b.cancel(errTimeout) })
	n, err := b.stream.Read(p)
	watch.Stop()
	b.left -= int64(n)
	b.metrics.moved("in", int64(n))
	switch {
	case b.left == 0:
		err = io.EOF
		b.tell(nil)
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
		b.tell(err)
	case err == nil && b.isSlow(n, time.Since(begun)):
		err = errSlow
		b.tell(err)
	case err != nil:
		b.tell(err)
	}
	return n, err
}

// errSlow ends a body that comes more slowly than from any upstream.
var errSlow = fmt.Errorf("s3: less than %s arrived within %s", units.IEC(slowest), stall)

// isSlow counts bytes and the time that was waited for them, without that between two reads.
func (b *body) isSlow(n int, took time.Duration) bool {
	b.got += int64(n)
	if b.waited += took; b.waited < stall {
		return false
	}
	slow := b.got < slowest
	b.got, b.waited = 0, 0
	return slow
}

// tell ends the pass of the body, unless it has ended.
func (b *body) tell(err error) {
	switch {
	case b.told:
		return
	case err == nil:
		b.reads.end(nil)
	case b.ctx.Err() != nil && !errors.Is(context.Cause(b.ctx), errTimeout): // the reader left
		b.reads.abandon()
	default:
		b.reads.end(&Error{Operation: string(opGet), Reason: Unreachable, err: fmt.Errorf("a body broke off: %w", err)})
	}
	b.told = true
}

func (b *body) Close() error {
	if !b.told {
		b.told = true
		b.reads.abandon()
	}
	b.cancel(nil)
	return b.stream.Close()
}

// content is an open object that can seek.
type content struct {
	ctx    context.Context
	store  *Store
	digest digest.Digest
	size   int64
	off    int64
	body   io.ReadCloser // nil: the next Read opens one at off
}

func (c *content) Read(p []byte) (int, error) {
	if c.off >= c.size {
		return 0, io.EOF
	}
	if c.body == nil {
		body, size, err := c.store.OpenAt(c.ctx, c.digest, c.off)
		if err != nil {
			return 0, err
		}
		if size != c.size {
			body.Close()
			return 0, fmt.Errorf("s3: %s has %d bytes, and had %d", c.digest, size, c.size)
		}
		c.body = body
	}
	n, err := c.body.Read(p)
	c.off += int64(n)
	if n > 0 && err == io.EOF { // the next call finds the end
		err = nil
	}
	return n, err
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.off
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, errors.New("s3: cannot seek before the start")
	}
	if offset != c.off {
		c.drop()
	}
	c.off = offset
	return offset, nil
}

func (c *content) drop() {
	if c.body != nil {
		c.body.Close()
		c.body = nil
	}
}

func (c *content) Close() error {
	c.drop()
	return nil
}

// Commit uploads the spool's file.
func (s *Store) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	if _, err := s.blobKey(dgst); err != nil {
		return err
	}
	reader, err := sp.NewReader(ctx)
	if err != nil {
		return err
	}
	defer reader.Close()
	info := storage.Info{Digest: dgst, Size: sp.Size()}
	if lacks, err := s.Lacks(ctx, info); err != nil || !lacks {
		return err
	}
	return s.Upload(ctx, info, reader)
}

// Lacks reports whether a blob has to be uploaded: there is no object, or one of another
// size or with other bytes. It returns an error that matches spool.ErrBusy if the content is
// about to be removed.
func (s *Store) Lacks(ctx context.Context, info storage.Info) (bool, error) {
	if err := s.use(info.Digest); err != nil {
		return false, err
	}
	if s.discarded.Contains(info.Digest) {
		return true, nil
	}
	if k, _ := s.known.Get(info.Digest); k.size == info.Size && time.Now().Before(k.until) {
		return false, nil
	}
	have, err := s.Stat(ctx, info.Digest)
	if errors.Is(err, storage.ErrNotExist) {
		return true, nil
	}
	return err == nil && have.Size != info.Size, err
}

// Upload stores a blob that has been verified. It replaces an object of another size,
// which is truncated or of another program, and one that was discarded. An object of its size is left.
func (s *Store) Upload(ctx context.Context, info storage.Info, from io.ReaderAt) error {
	key, err := s.blobKey(info.Digest)
	if err != nil {
		return err
	}
	// An object that is written while its content leaves would be removed soon.
	if err := s.use(info.Digest); err != nil {
		return err
	}
	defer s.used(info.Digest) // the upload may have taken long
	replace := s.discarded.Contains(info.Digest)
	for {
		conditional := !replace && !s.unconditional.Load()
		err = s.put(ctx, key, info.Size, from, conditional)
		switch {
		case conditional && ReasonOf(err) == Unsupported:
			s.unconditional.Store(true)
		case conditional && ReasonOf(err) == Conflict:
			// Another replica was faster, if its object is the right one.
			size, seen := s.head(ctx, key)
			if errors.Is(seen, storage.ErrNotExist) && isPrecondition(err) {
				replace = true // it exists, the server says, and is not there: no wait changes that
				continue
			}
			// It is being written, or cannot be seen: the caller tries again later.
			if seen != nil {
				return err
			}
			if size == info.Size {
				s.there(info.Digest, size)
				return nil
			}
			replace = true
		case err != nil:
			return err
		default:
			s.discarded.Remove(info.Digest)
			s.there(info.Digest, info.Size)
			s.opts.Metrics.moved("out", info.Size)
			return nil
		}
	}
}

// put writes an object, in parts if it is large.
func (s *Store) put(ctx context.Context, key string, size int64, from io.ReaderAt, conditional bool) error {
	opts := minio.PutObjectOptions{ContentType: "application/octet-stream", PartSize: uint64(s.partSize(size)), NumThreads: 1}
	if size > parallelFrom {
		opts.NumThreads = partsAtOnce
	}
	if conditional {
		opts.SetMatchETagExcept("*")
	}
	parts := max(1, size/s.partSize(size))
	return s.within(ctx, opPut, s.opts.OperationTimeout*time.Duration(parts), func(ctx context.Context) error {
		return s.send(ctx, key, io.NewSectionReader(from, 0, size), size, opts)
	})
}

// send sends an object. Without TLS the library signs the pieces of a body. If there are no
// bytes, only an HTTP chunk of unknown length is left of that: Amazon S3 refuses it, and
// versitygw reads its end as the next request. An empty body is therefore signed as a whole.
func (s *Store) send(ctx context.Context, key string, from io.Reader, size int64, opts minio.PutObjectOptions) error {
	if size == 0 {
		opts.DisableContentSha256 = true
		_, err := s.client.PutObject(ctx, s.opts.Bucket, key, from, 0, "", digest.SHA256.FromBytes(nil).Encoded(), opts)
		return err
	}
	_, err := s.client.Client.PutObject(ctx, s.opts.Bucket, key, from, size, opts)
	return err
}

// partSize returns the size of the parts of an object: equal ones, and never too many.
func (s *Store) partSize(size int64) int64 {
	if s.opts.PartSize > 0 {
		return max(s.opts.PartSize, size/maxParts)
	}
	return max(smallestPart, size/maxParts+1)
}

// Delete removes the object. Bodies that are open can be read on, as far as the server
// lets them.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	key, err := s.blobKey(dgst)
	if err != nil {
		return err
	}
	s.gone(dgst)
	return s.remove(ctx, key)
}

// Discard removes a blob whose bytes are not those of its digest. Until the next Upload
// replaces it, it counts as missing, even if it cannot be removed.
func (s *Store) Discard(ctx context.Context, dgst digest.Digest) error {
	key, err := s.blobKey(dgst)
	if err != nil {
		return err
	}
	s.discarded.Add(dgst, struct{}{})
	s.gone(dgst)
	return s.call(ctx, opDelete, func(ctx context.Context) error {
		return s.client.RemoveObject(ctx, s.opts.Bucket, key, minio.RemoveObjectOptions{})
	})
}

// remove removes an object, or returns ErrNotExist: the answer to a deletion does not
// tell whether there was one.
func (s *Store) remove(ctx context.Context, key string) error {
	if _, err := s.head(ctx, key); err != nil {
		return err
	}
	return s.call(ctx, opDelete, func(ctx context.Context) error {
		return s.client.RemoveObject(ctx, s.opts.Bucket, key, minio.RemoveObjectOptions{})
	})
}

// All lists the objects below blobs/. An entry's time is that of its upload.
func (s *Store) All(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		prefix := s.below(blobsName)
		for object, err := range s.list(ctx, prefix) {
			if err != nil {
				yield(storage.Entry{}, err)
				return
			}
			dgst, ok := digestOf(strings.TrimPrefix(object.Key, prefix))
			if !ok || object.Size < 0 {
				continue // it is not ours
			}
			if !yield(storage.Entry{Info: storage.Info{Digest: dgst, Size: object.Size}, Used: object.LastModified}, nil) {
				return
			}
		}
	}
}

// digestOf returns the digest of a blob's key. It reports false for keys that Weir
// does not make.
func digestOf(name string) (digest.Digest, bool) {
	algorithm, rest, _ := strings.Cut(name, "/")
	shard, hex, _ := strings.Cut(rest, "/")
	dgst := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return dgst, storage.ValidateDigest(dgst) == nil && shard == hex[:2]
}

// list yields the objects whose keys begin with prefix. It ends after the first error. A page
// that does not come within a minute is one, and so are more keys than any mirror makes.
func (s *Store) list(ctx context.Context, prefix string) iter.Seq2[minio.ObjectInfo, error] {
	return s.listBelow(ctx, prefix, true)
}

// listBelow is list with one entry for all keys below a slash unless it is recursive.
func (s *Store) listBelow(ctx context.Context, prefix string, recursive bool) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		if ctx.Err() != nil {
			yield(minio.ObjectInfo{}, context.Cause(ctx))
			return
		}
		pass, err := s.enter(ctx)
		if err != nil {
			s.opts.Metrics.ended(opList, paused, 0)
			yield(minio.ObjectInfo{}, err)
			return
		}
		listing, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watch := time.AfterFunc(pagePatience, func() { cancel(errTimeout) })
		defer watch.Stop()
		var failed error
		begun, answered, seen := time.Now(), false, 0
		for object := range s.client.ListObjectsIter(listing, s.opts.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: recursive}) {
			// The caller's own time is none of the server's.
			watch.Stop()
			if ctx.Err() != nil { // the caller may have canceled between two objects of one page
				break
			}
			if seen++; seen > maxListed {
				object.Err = fmt.Errorf("%w: a listing of more than %d keys", errTooLong, maxListed)
			}
			if failed = object.Err; failed != nil {
				break
			}
			// A listing takes as long as its caller wants, and other requests may wait for a
			// probe: the first page decides.
			if !answered {
				pass.end(nil)
				answered = true
			}
			// A server may answer with keys that were not asked for.
			if strings.HasPrefix(object.Key, prefix) && len(object.Key) <= 3*maxKey && !yield(object, nil) {
				pass.end(nil)
				s.opts.Metrics.ended(opList, ok, time.Since(begun))
				return
			}
			watch.Reset(pagePatience)
		}
		// The library ends a listing whose context has ended as if it were complete.
		if ctx.Err() == nil && listing.Err() != nil {
			failed = &Error{Operation: string(opList), Reason: Unreachable, err: fmt.Errorf("a page: %w of %s", errTimeout, pagePatience)}
		}
		if err := s.listed(ctx, pass, begun, failed); err != nil {
			yield(minio.ObjectInfo{}, err)
		}
	}
}

// listed ends the pass of a listing that came to its end or failed, and returns its error for the
// caller.
func (s *Store) listed(ctx context.Context, pass pass, begun time.Time, err error) error {
	took := time.Since(begun)
	if ctx.Err() != nil {
		pass.abandon()
		s.opts.Metrics.ended(opList, canceled, took)
		return context.Cause(ctx)
	}
	err = s.explain(opList, err)
	s.leave(pass, opList, err)
	s.opts.Metrics.ended(opList, resultOf(err), took)
	return err
}
