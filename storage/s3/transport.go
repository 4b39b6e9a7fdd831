package s3

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxHeader bounds the header of an answer: S3 has some 2 KiB of metadata.
	maxHeader = 64 << 10
	// maxDocument bounds an answer in XML: a page of a listing has 1000 keys of at most
	// 3 KiB each, percent-encoded.
	maxDocument = 4 << 20
)

// errTooLong says that an answer is longer than it may be.
var errTooLong = errors.New("s3: the answer is longer than it may be")

// newTransport returns the connections to a bucket. It decodes no compression, since the
// digest is that of the bytes as they are stored.
func newTransport(attempt time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: min(5*time.Second, attempt)}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        time.Minute,
		ExpectContinueTimeout:  5 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
}

// transport bounds each request to a bucket in time, and each answer but the content
// of objects in bytes.
type transport struct {
	next    http.RoundTripper
	timeout time.Duration
	skew    atomic.Int64 // by how much the server's clock was ahead at its last answer
}

// RoundTrip sends a request. Its time ends when the body is closed, or when the content of
// an object begins, which may be long: its readers notice a pause.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(t.timeout, func() { cancel(errTimeout) })
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		lent := &lentBody{ReadCloser: r.Body}
		defer lent.takeBack()
		r.Body = lent
	}
	answer, err := t.next.RoundTrip(r)
	if err != nil {
		// The library repeats a request whose time is over, unless its caller's is too.
		if errors.Is(context.Cause(ctx), errTimeout) {
			err = fmt.Errorf("%w of %s", errTimeout, t.timeout)
		}
		timer.Stop()
		cancel(nil)
		return nil, err
	}
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		t.skew.Store(int64(time.Until(date)))
	}
	// The library would follow a redirect to any host, and stay there.
	answer.Header.Del("Location")
	body := &boundedBody{ReadCloser: answer.Body, left: maxDocument, end: func() {
		timer.Stop()
		cancel(nil)
	}}
	if isObject(r, answer) {
		timer.Stop()
		body.whole = true
	}
	answer.Body = body
	if answer.StatusCode == http.StatusNotFound {
		if err := isOfStore(r, answer); err != nil {
			answer.Body.Close()
			return nil, err
		}
	}
	return answer, nil
}

// maxError bounds a document about a missing object. It has some 300 bytes.
const maxError = 64 << 10

// errNotOfStore says that something else than an object store answers.
var errNotOfStore = errors.New("s3: the 404 does not come from an object store, but perhaps from a proxy in front of it")

// isOfStore returns an error if a 404 is none of an object store. A store names the missing thing
// in a document. A proxy that has lost its server, or has another one, answers with a page or with
// nothing, and would make all content and all rights look like removed ones. An answer to HEAD has
// no document, and only its type can tell.
func isOfStore(r *http.Request, answer *http.Response) error {
	if r.Method == http.MethodHead {
		if kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";"); kind == "text/html" {
			return errNotOfStore
		}
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxError))
	if err != nil {
		return err
	}
	var document struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
	}
	if xml.Unmarshal(text, &document) != nil || document.Code == "" {
		return errNotOfStore
	}
	answer.Body = &readAgain{bytes.NewReader(text), answer.Body}
	return nil
}

// readAgain is a body whose bytes have been read.
type readAgain struct {
	io.Reader
	io.Closer
}

// lentBody is the body of a request until RoundTrip returns. The connection may go on reading
// it after that (see [http.RoundTripper]), for instance if the server refuses a request before
// its end, and the library rewinds the same content for the next attempt.
type lentBody struct {
	io.ReadCloser

	mu   sync.Mutex // held while the content is read, which is a file or memory
	back bool
}

// errTakenBack ends a request that has been answered before its end.
var errTakenBack = errors.New("s3: the request has been answered")

func (b *lentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.back {
		return 0, errTakenBack
	}
	return b.ReadCloser.Read(p)
}

func (b *lentBody) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.back = true
}

// isObject reports whether the body of an answer is the content of an object. Its length
// is that of the header; one without a length is taken for a document.
func isObject(r *http.Request, answer *http.Response) bool {
	return r.Method == http.MethodGet && (answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusPartialContent) &&
		r.URL.RawQuery == "" && answer.ContentLength >= 0
}

// boundedBody is a body of at most left bytes.
type boundedBody struct {
	io.ReadCloser
	left  int64
	whole bool   // its length is that of its header, and bounds it
	end   func() // called by each Close
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 && !b.whole {
		return n, errTooLong
	}
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
