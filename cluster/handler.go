package cluster

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	// maxServing bounds the requests of other replicas that are served at once.
	maxServing = 256
	// soon is how long an answer is waited for before the replica says that it lives.
	soon = 50 * time.Millisecond
	// beat is the time between two of these words.
	beat = time.Second
	// readLimit is how long a replica may accept no byte.
	readLimit = 30 * time.Second
	// sendStep is how many bytes are sent under one limit.
	sendStep = 1 << 20
)

// handler serves the blobs of this replica to others.
func (c *Cluster) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.begin() {
			panic(http.ErrAbortHandler)
		}
		defer c.handling.Done()
		w.Header().Set(versionHeader, strconv.Itoa(version))
		status := c.serve(w, r)
		if status == 0 {
			return // it has been answered
		}
		if status == http.StatusUnauthorized || status == http.StatusBadRequest {
			w.Header().Set("Connection", "close") // an unknown process
		}
		w.WriteHeader(status)
	})
}

// begin counts a request that Close waits for. It returns false for one that comes later: the
// end of the server cuts connections, and a request that has just arrived on one goes on.
func (c *Cluster) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.handling.Add(1)
	}
	return !c.closed
}

// serve answers a request, or returns the status of the answer that has no body.
func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) (status int) {
	var wanted request
	isPing := r.URL.Path == pingPath
	if r.ContentLength != 0 { // no request of a replica has a body
		// The server would read it, for as long as the sender takes to send it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
		return http.StatusBadRequest
	}
	if !isPing {
		var ok bool
		if wanted, ok = parseRequest(r); !ok {
			return http.StatusBadRequest
		}
	}
	switch err := c.signer.check(r.Header, wanted, time.Now()); {
	case errors.Is(err, ErrClock):
		return http.StatusForbidden
	case err != nil:
		return http.StatusUnauthorized
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed
	// The client sees it in the header of the answer, and does not read on.
	case r.Header.Get(versionHeader) != strconv.Itoa(version):
		return http.StatusBadRequest
	}
	keepConn(r.Context())
	if isPing {
		w.Header().Set(idHeader, c.id)
		return http.StatusOK
	}
	select {
	case c.serving <- struct{}{}:
		defer func() { <-c.serving }()
	default:
		return http.StatusServiceUnavailable
	}
	content, err := c.await(w, r, wanted)
	if err != nil {
		c.opts.Logger.Debug("another replica asked for content that this one does not deliver", "digest", wanted.digest, "error", err)
		return http.StatusNotFound
	}
	defer content.Close()
	c.send(w, r, wanted, content)
	return 0
}

// await opens a blob, and says meanwhile that this replica lives.
func (c *Cluster) await(w http.ResponseWriter, r *http.Request, wanted request) (*Content, error) {
	type result struct {
		content *Content
		err     error
	}
	ctx, cancel := context.WithCancel(r.Context())
	opened := make(chan result, 1)
	go func() {
		content, err := c.opts.Contents.Open(ctx, Want{Digest: wanted.digest, Block: wanted.block, Offset: wanted.offset}, wanted.stored)
		opened <- result{content, err}
	}()
	timer := time.NewTimer(soon)
	defer timer.Stop()
	for {
		select {
		case got := <-opened:
			if got.err != nil {
				cancel()
				return nil, got.err
			}
			// The context is that of all reading.
			got.content.ReadCloser = &ending{got.content.ReadCloser, cancel}
			return got.content, nil
		case <-timer.C:
			w.WriteHeader(http.StatusProcessing)
			timer.Reset(beat)
		}
	}
}

// ending is a blob that ends its context when it is closed.
type ending struct {
	io.ReadCloser
	end context.CancelFunc
}

func (e *ending) Close() error {
	defer e.end()
	return e.ReadCloser.Close()
}

// send sends a blob. If it breaks off, so does the connection, so that the other replica
// does not take a part for the whole.
func (c *Cluster) send(w http.ResponseWriter, r *http.Request, wanted request, content *Content) {
	h := w.Header()
	if content.Size >= 0 && content.Size < wanted.offset {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	h.Set(placeHeader, place(wanted.offset, content.Size))
	h.Set("Content-Type", "application/octet-stream")
	if content.Size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(content.Size-wanted.offset, 10))
	}
	if content.Link != nil {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		own := content.Link(trace.SpanContextFromContext(ctx))
		propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), own), propagation.HeaderCarrier(h))
	}
	w.WriteHeader(http.StatusPartialContent)
	if err := c.copy(w, content); err != nil {
		c.opts.Logger.Debug("an answer to another replica broke off", "digest", wanted.digest, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// copy sends the bytes as they come. Those in a file are sent by the kernel.
func (c *Cluster) copy(w http.ResponseWriter, content *Content) error {
	out := &timely{w, c.opts.Metrics}
	if err := out.FlushError(); err != nil { // the header: the first bytes may take long
		return err
	}
	inner := content.ReadCloser.(*ending).ReadCloser // as await has made it
	if _, isFile := inner.(syscall.Conn); isFile {
		_, err := out.ReadFrom(inner)
		return err
	}
	_, err := c.copier.Follow(out, inner, -1)
	return err
}

// timely is the writer of an answer, whose bytes the other replica must accept in time. It
// counts them.
type timely struct {
	http.ResponseWriter
	metrics *Metrics
}

// bound limits the time of the next write. Every writer of net/http can do so.
func (t *timely) bound() {
	_ = http.NewResponseController(t.ResponseWriter).SetWriteDeadline(time.Now().Add(readLimit))
}

func (t *timely) Write(p []byte) (int, error) {
	t.bound()
	n, err := t.ResponseWriter.Write(p)
	t.metrics.moved(sent, int64(n))
	return n, err
}

// ReadFrom leaves a file, or a part of one, to the writer's own ReadFrom, step by step.
func (t *timely) ReadFrom(src io.Reader) (sum int64, err error) {
	part, ok := src.(*io.LimitedReader)
	if !ok {
		part = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	for part.N > 0 {
		t.bound()
		step := &io.LimitedReader{R: part.R, N: min(part.N, sendStep)}
		n, err := io.Copy(t.ResponseWriter, step)
		t.metrics.moved(sent, n)
		sum += n
		part.N -= n
		if err != nil || step.N > 0 { // the end
			return sum, err
		}
	}
	return sum, nil
}

func (t *timely) FlushError() error {
	t.bound()
	return http.NewResponseController(t.ResponseWriter).Flush()
}
