package harness

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Answer is the answer to a request, read to its end.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Err    error // of reading the body
}

// ErrorCode returns the code of an OCI error document, or "" where the body is
// none.
func (a Answer) ErrorCode() string {
	var document struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.Body, &document) != nil || len(document.Errors) != 1 || document.Errors[0].Message == "" {
		return ""
	}
	return document.Errors[0].Code
}

// connectionTimeout is the time after which the mirror ends a new connection on which it has
// seen no complete handshake or header.
const connectionTimeout = 10 * time.Second

// Again makes an attempt with a new connection. It makes another one if that failed after the
// mirror had to end the connection: the machine stood still, or was too busy.
func Again(t *testing.T, attempt func() error) error {
	t.Helper()
	begun := time.Now()
	err := attempt()
	if err != nil && time.Since(begun) > connectionTimeout {
		t.Logf("%v; trying again", err)
		err = attempt()
	}
	return err
}

// Patient is a transport that sends a request without a body again, as Again does.
type Patient struct{ *http.Transport }

// Most tests use the default client.
func init() {
	http.DefaultClient.Transport = Patient{http.DefaultTransport.(*http.Transport)}
}

// RoundTrip sends a request.
func (p Patient) RoundTrip(req *http.Request) (*http.Response, error) {
	begun := time.Now()
	resp, err := p.Transport.RoundTrip(req)
	if err == nil || time.Since(begun) <= connectionTimeout || req.Context().Err() != nil || req.Body != nil {
		return resp, err
	}
	return p.Transport.RoundTrip(req)
}

// Get requests a path of the mirror. Headers are name, value, name, value...
func (w *Weir) Get(t *testing.T, path string, headers ...string) Answer {
	t.Helper()
	return w.Do(t, http.MethodGet, path, headers...)
}

// Do is Get with another method.
func (w *Weir) Do(t *testing.T, method, path string, headers ...string) Answer {
	t.Helper()
	req := w.request(t, method, path, headers)
	client := http.DefaultClient
	if w.Client != nil {
		client = w.Client
	}
	var resp *http.Response
	err := Again(t, func() (err error) {
		resp, err = client.Do(req)
		return err
	})
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, a.Err = readAll(resp)
	return a
}

// readAll returns the body of an answer. With the race detector, a buffer that grows under
// many MiB takes most of the time of a test.
func readAll(resp *http.Response) ([]byte, error) {
	var body bytes.Buffer
	if resp.ContentLength > 0 && resp.Request.Method != http.MethodHead {
		body.Grow(int(min(resp.ContentLength, 64<<20)) + bytes.MinRead)
	}
	_, err := body.ReadFrom(resp.Body)
	return body.Bytes(), err
}

// request returns a request with headers, each a name and a value.
func (w *Weir) request(t *testing.T, method, path string, headers []string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return req
}

// Open starts a request on a connection of its own. The caller reads the body
// as it likes; the test's end closes it.
func (w *Weir) Open(t *testing.T, path string, headers ...string) *http.Response {
	t.Helper()
	return w.openWith(t, &net.Dialer{}, path, headers...)
}

// OpenSlow is Open with a small receive buffer, so that a client that does not
// read is noticed by the mirror soon.
func (w *Weir) OpenSlow(t *testing.T, path string, headers ...string) *http.Response {
	t.Helper()
	return w.openWith(t, &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failure error
		err := c.Control(func(fd uintptr) {
			failure = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10)
		})
		if err != nil {
			return err
		}
		return failure
	}}, path, headers...)
}

func (w *Weir) openWith(t *testing.T, dialer *net.Dialer, path string, headers ...string) *http.Response {
	t.Helper()
	req := w.request(t, http.MethodGet, path, headers)
	transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// Pulling is a request that runs beside the test.
type Pulling struct {
	Status int
	Header http.Header
	Length int64
	Digest digest.Digest // of the body, which may have broken off
	Err    error
	Done   chan struct{}
}

// Pull starts a request and reads its body to the end, beside the test.
func (w *Weir) Pull(t *testing.T, path string, headers ...string) *Pulling {
	t.Helper()
	req := w.request(t, http.MethodGet, path, headers)
	p := &Pulling{Done: make(chan struct{})}
	transport := Patient{&http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	if w.Client != nil {
		if own, ok := w.Client.Transport.(*http.Transport); ok {
			transport.TLSClientConfig = own.TLSClientConfig.Clone()
		}
	}
	go func() {
		defer close(p.Done)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			p.Err = err
			return
		}
		defer resp.Body.Close()
		p.Status, p.Header = resp.StatusCode, resp.Header
		digester := digest.Canonical.Digester()
		p.Length, p.Err = io.Copy(digester.Hash(), resp.Body)
		p.Digest = digester.Digest()
	}()
	return p
}

// Wait returns when the request has ended.
func (p *Pulling) Wait(t *testing.T) *Pulling {
	t.Helper()
	Eventually(t, "a pull ends", func() bool {
		select {
		case <-p.Done:
			return true
		default:
			return false
		}
	})
	return p
}

// Whole fails the test unless the request ends with the content.
func (p *Pulling) Whole(t *testing.T, label string, dgst digest.Digest) {
	t.Helper()
	p.Wait(t)
	if p.Err != nil || p.Status != http.StatusOK || p.Digest != dgst {
		t.Errorf("%s: status %d, %d bytes, error %v, digest %s, want %s", label, p.Status, p.Length, p.Err, p.Digest, dgst)
	}
}
