package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/reply"
	"github.com/weirhq/weir/namespace"
)

// Cache-Control of answers (RFC 9111 section 5.2.2). Nothing that one client got of a locked
// mirror answers another one from a shared cache: not everything that distinguishes clients is in
// headers that a cache knows.
const (
	immutable     = "public, max-age=31536000, immutable" // content that is addressed by its digest
	private       = "private, max-age=31536000, immutable"
	moving        = "no-cache" // can change, so caches in between must ask again
	privateMoving = "private, no-cache"
	refusing      = "no-store" // an error of a locked mirror: rights come and go
)

// locked reports whether other clients may get another answer.
func (e *entry) locked() bool { return e.visitor.rules != nil || e.ns != nil && e.ns.OnBehalf() }

// keepPrivate keeps an answer that can change out of shared caches, if others may not have it.
func (e *entry) keepPrivate(w http.ResponseWriter) {
	if e.locked() {
		w.Header().Set("Cache-Control", privateMoving)
	}
}

// oneWrite is the size of the largest body that is copied behind its headers, in one
// write. A larger body is left to the response writer's ReadFrom, which sends the
// headers by themselves and then the file from the kernel; below 32 KiB the second
// system call costs more than the copy.
const oneWrite = 32 << 10

// pull is one request to a repository of a namespace.
type pull struct {
	ctx   context.Context // of the request, perhaps with the credential of its client
	w     http.ResponseWriter
	r     *http.Request
	req   Request
	ns    *namespace.Namespace
	repo  string
	entry *entry
	opts  *Options

	copier *reply.Copier

	manifestOf digest.Digest // of the answer; empty: it has no manifest

	values [8]string // of the answer's headers; a cached blob has eight at most
	filled int
}

func (p *pull) manifest() error {
	ask := p.ns.Manifest
	if p.r.Method == http.MethodHead {
		ask = p.ns.Head
	}
	m, err := ask(p.ctx, p.repo, p.req.Reference.Accepting(p.r.Header.Values("Accept")...))
	if err != nil {
		return err
	}
	p.manifestOf = m.Descriptor.Digest
	p.setCacheStatus(m.Outcome)
	p.set("Content-Type", m.Descriptor.MediaType)
	p.setContentHeaders(m.Descriptor.Digest)
	if p.req.Digest == "" {
		p.set("Cache-Control", moving)
		p.entry.keepPrivate(p.w)
	}
	return p.send(m.Outcome, m.Content, m.Descriptor.Digest, m.Descriptor.Size)
}

func (p *pull) blob() error {
	var b *namespace.Blob
	var err error
	if p.r.Method == http.MethodHead {
		b, err = p.ns.HeadBlob(p.ctx, p.repo, p.req.Digest)
	} else {
		if done, err := p.redirect(); done || err != nil {
			return err
		}
		start, end := rangeHint(p.r.Header, p.req.Digest)
		b, err = p.ns.Blob(p.ctx, p.repo, p.req.Digest, start, end)
	}
	// A body without a length ends with the connection in HTTP/1.0 (RFC 1945, section 7.2.2), so
	// that one which breaks off looks whole.
	if err == nil && b.Content != nil && b.Size < 0 && !p.r.ProtoAtLeast(1, 1) {
		b, err = p.whole(b)
	}
	if err != nil {
		return err
	}
	p.setCacheStatus(b.Outcome)
	p.set("Content-Type", "application/octet-stream")
	p.setContentHeaders(p.req.Digest)
	return p.send(b.Outcome, b.Content, p.req.Digest, b.Size)
}

// whole waits until a blob of unknown size has come completely, and returns it with its size.
func (p *pull) whole(b *namespace.Blob) (*namespace.Blob, error) {
	_, err := io.Copy(io.Discard, b.Content)
	if err := errors.Join(err, b.Content.Close()); err != nil {
		return nil, err
	}
	if b, err = p.ns.Blob(p.ctx, p.repo, p.req.Digest, 0, -1); err == nil && b.Size < 0 {
		b.Content.Close()
		return nil, errNoLength
	}
	return b, err
}

// setCacheStatus records for the client and the log how the answer came about
// (RFC 9211, RFC 9111 section 5.1 for the age, and RFC 7234 section 5.5 for the warning).
func (p *pull) setCacheStatus(o namespace.Outcome) {
	p.entry.outcome = o
	p.set("Cache-Status", cacheStatus(o))
	if !o.Checked.IsZero() {
		p.set("Age", strconv.Itoa(int(max(0, time.Since(o.Checked))/time.Second)))
	}
	if o.Warning != "" {
		p.set("Warning", "299 - "+strconv.Quote(o.Warning))
	}
}

func (p *pull) setContentHeaders(dgst digest.Digest) {
	tag := etag(dgst)
	p.set("Docker-Content-Digest", tag[1:len(tag)-1])
	p.set("Etag", tag)
	if p.entry.locked() {
		p.set("Cache-Control", private)
	} else {
		p.set("Cache-Control", immutable)
	}
}

// set sets a header whose name is in the form of http.CanonicalHeaderKey. The values of an
// answer are part of its transaction, so that they cost no allocation.
func (p *pull) set(name, value string) {
	if p.filled == len(p.values) {
		p.w.Header().Set(name, value)
		return
	}
	at := p.filled
	p.filled++
	p.values[at] = value
	p.w.Header()[name] = p.values[at : at+1 : at+1]
}

func etag(dgst digest.Digest) string { return `"` + dgst.String() + `"` }

// send writes content whose headers are set, and obeys conditions and ranges
// (RFC 9110). Content that breaks off aborts the connection, so that no client takes
// it for complete.
func (p *pull) send(o namespace.Outcome, content io.ReadSeekCloser, dgst digest.Digest, size int64) error {
	if size < 0 { // else http.ServeContent evaluates the conditions
		if status := unmet(p.r.Header, etag(dgst)); status != 0 {
			if content != nil {
				content.Close()
			}
			p.w.Header().Del("Content-Type")
			p.w.WriteHeader(status)
			return nil
		}
	}
	keepBytes(p.r.Header)
	if content == nil {
		if size >= 0 && p.unconditional() {
			return p.sendWhole(nil, size)
		}
		// A HEAD needs the size only. RFC 9110 section 14.2 defines ranges for
		// GET, so a Range is ignored.
		p.r.Header.Del("Range")
		if size < 0 {
			p.w.WriteHeader(http.StatusOK)
			return nil
		}
		http.ServeContent(p.w, p.r, "", time.Time{}, io.NewSectionReader(nil, 0, size))
		return nil
	}
	if size >= 0 && !worthServing(p.r.Header.Get("Range"), size) {
		p.r.Header.Del("Range")
	}
	multipart := severalRanges(p.r.Header.Get("Range"))
	// Each of several ranges could cost a request upstream. They are read from the one
	// download, in order.
	if download, ok := content.(sequential); ok && multipart {
		download.Sequential()
	}
	if o.Cache.Cached() && !multipart {
		return p.sendStored(content, dgst, size)
	}
	guarded := &guarded{content: content, copier: p.copier}
	defer guarded.close()
	if size < 0 {
		// Without a size there are no ranges, and only the end of the body
		// tells the client that it is complete.
		p.w.WriteHeader(http.StatusOK)
		_, _ = guarded.sendTo(p.w, -1) // guarded keeps the errors that count
	} else {
		http.ServeContent(&following{p.w, guarded}, p.r, "", time.Time{}, guarded)
	}
	if err := guarded.close(); err != nil {
		if o.Cache.Cached() {
			p.brokeOff(dgst, err)
		}
		p.entry.err = err
		panic(http.ErrAbortHandler)
	}
	return nil
}

// sendStored writes stored content, and closes it. A failed read leaves the body shorter than
// its Content-Length, so the client notices it without an abort.
func (p *pull) sendStored(content io.ReadSeekCloser, dgst digest.Digest, size int64) error {
	defer content.Close()
	_, isFile := content.(syscall.Conn)
	if whole, ok := content.(io.WriterTo); ok && !isFile && size <= oneWrite && p.unconditional() {
		return p.sendWhole(whole, size)
	}
	if size <= oneWrite {
		// Without its io.ReaderFrom. Content of this size comes from memory.
		http.ServeContent(struct{ http.ResponseWriter }{p.w}, p.r, "", time.Time{}, content)
		return nil
	}
	// Content is not wrapped, so that the kernel can send an *os.File.
	w := &sending{ResponseWriter: p.w}
	http.ServeContent(w, p.r, "", time.Time{}, content)
	p.brokeOff(dgst, w.err)
	return nil
}

// unconditional reports whether a request asks for all of a blob, whatever its client has.
func (p *pull) unconditional() bool {
	for _, name := range [...]string{"Range", "If-Range", "If-Match", "If-None-Match"} {
		if p.r.Header[name] != nil {
			return false
		}
	}
	return true
}

// sendWhole writes a small blob, or nil for a HEAD, as http.ServeContent does for a request
// without conditions and ranges: it seeks nothing and copies through no buffer of its own.
func (p *pull) sendWhole(content io.WriterTo, size int64) error {
	p.set("Accept-Ranges", "bytes")
	p.set("Content-Length", strconv.FormatInt(size, 10))
	p.w.WriteHeader(http.StatusOK)
	if content != nil {
		_, _ = content.WriteTo(p.w) // a body that is too short is noticed by its client
	}
	return nil
}

// brokeOff notes that stored content could not be sent to its end, if err is not nil.
func (p *pull) brokeOff(dgst digest.Digest, err error) {
	if err != nil && p.ns.BrokeOff(p.ctx, dgst, err) {
		p.entry.err = err
	}
}

// sending is the writer of stored content. It records a failed read or write, which
// http.ServeContent does not report.
type sending struct {
	http.ResponseWriter
	err error
}

// ReadFrom leaves the content to the writer's own ReadFrom, if it has one.
func (s *sending) ReadFrom(content io.Reader) (int64, error) {
	n, err := io.Copy(s.ResponseWriter, content)
	s.err = err
	return n, err
}

// sequential is the content of a running download.
type sequential interface {
	// Sequential makes the content ask for no range by itself.
	Sequential()
}
