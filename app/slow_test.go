package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener on connections in memory, which know the bubble's time.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accepted:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// connect serves a connection until the test ends.
func connect(t *testing.T, handler http.HandlerFunc) net.Conn {
	t.Helper()
	listener := &pipes{make(chan net.Conn), make(chan struct{})}
	server := newServer(handler, discard())
	go func() {
		if err := server.Serve(newStallListener(listener, discard())); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	client, conn := net.Pipe()
	listener.accepted <- conn
	t.Cleanup(func() {
		client.Close()
		server.Close()
		synctest.Wait()
	})
	return client
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func answer(t *testing.T, from *bufio.Reader) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// expectCut fails the test unless the server closes a connection after a time.
func expectCut(t *testing.T, from io.Reader, after time.Duration) {
	t.Helper()
	start := time.Now()
	if n, err := io.Copy(io.Discard, from); n > 0 || err != nil {
		t.Errorf("%d bytes and %v, want the end", n, err)
	}
	if took := time.Since(start); took != after {
		t.Errorf("cut after %s, want %s", took, after)
	}
}

func nothing(http.ResponseWriter, *http.Request) {}

// A client that connects and says nothing is cut.
func TestSilentClientIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expectCut(t, connect(t, nothing), 10*time.Second)
	})
}

// So is one whose header never ends, however busy it is with it.
func TestSlowHeaderIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := connect(t, nothing)
		send(t, conn, "GET /v2/ HTTP/1.1\r\nHost: mirror\r\nX-Slow: ")
		var busy sync.WaitGroup
		busy.Go(func() {
			for err := error(nil); err == nil; _, err = io.WriteString(conn, "x") {
				time.Sleep(time.Second) // of the bubble
			}
		})
		expectCut(t, conn, 10*time.Second)
		busy.Wait()
	})
}

// A client that does not send the body that it has announced is cut, whether a handler reads
// it or not.
func TestBodyThatDoesNotComeIsCut(t *testing.T) {
	ignore := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("answer")) }
	reading := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the body ended with %v", err)
		}
		w.WriteHeader(http.StatusBadRequest)
	}
	closing := func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") }
	const length, chunked = "Content-Length: 1000\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		request string
	}{
		"no handler reads it":            {ignore, "POST /healthz HTTP/1.1\r\nHost: mirror\r\n" + length},
		"in chunks":                      {ignore, "POST /healthz HTTP/1.1\r\nHost: mirror\r\n" + chunked},
		"a handler reads it":             {reading, "POST /token HTTP/1.1\r\nHost: mirror\r\n" + length},
		"a handler reads it, in chunks":  {reading, "POST /token HTTP/1.1\r\nHost: mirror\r\n" + chunked},
		"the client waits for its turn":  {reading, "POST /token HTTP/1.1\r\nHost: mirror\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"},
		"the connection ends afterwards": {closing, "PUT /v2/a/manifests/b HTTP/1.1\r\nHost: mirror\r\n" + length},
		"a request for no path":          {ignore, "OPTIONS * HTTP/1.1\r\nHost: mirror\r\n" + length},
		"a GET":                          {ignore, "GET / HTTP/1.1\r\nHost: mirror\r\n" + length},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := connect(t, c.handler)
				start := time.Now()
				send(t, conn, c.request)
				if _, err := io.Copy(io.Discard, conn); err != nil {
					t.Error(err)
				}
				// http.Server leaves a client half a second to read its answer.
				if took := time.Since(start); took < bodyTimeout || took > bodyTimeout+time.Second {
					t.Errorf("cut after %s, want %s", took, bodyTimeout)
				}
			})
		})
	}
}

// A client whose body is too long to be read can read the answer before its connection is
// reset, such as one that pushes a layer.
func TestAnswerBesideALongBody(t *testing.T) {
	const lingering = 500 * time.Millisecond // of http.Server
	for name, handler := range map[string]http.HandlerFunc{
		"no handler reads it": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) },
		"read in part": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadFull(r.Body, make([]byte, 4))
			w.WriteHeader(http.StatusMethodNotAllowed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := connect(t, handler)
				start := time.Now()
				send(t, conn, "PATCH /v2/org/app/blobs/uploads/1 HTTP/1.1\r\nHost: mirror\r\nContent-Length: 1048576\r\n\r\nbody")
				from := bufio.NewReader(conn)
				if got := answer(t, from); got.StatusCode != http.StatusMethodNotAllowed {
					t.Errorf("status %d", got.StatusCode)
				}
				if _, err := io.Copy(io.Discard, from); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took != lingering {
					t.Errorf("the connection ended after %s, want %s", took, lingering)
				}
			})
		})
	}
}

// A body that has come limits nothing: neither the time of its answer nor the next request.
func TestBodyThatHasComeLimitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := connect(t, func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				t.Error(err)
			}
			select {
			case <-time.After(time.Hour):
				w.WriteHeader(http.StatusAccepted)
			case <-r.Context().Done():
				t.Error(context.Cause(r.Context()))
			}
		})
		from := bufio.NewReader(conn)
		for range 2 {
			send(t, conn, "POST /token HTTP/1.1\r\nHost: mirror\r\nContent-Length: 4\r\n\r\nbody")
			if got := answer(t, from); got.StatusCode != http.StatusAccepted {
				t.Errorf("status %d", got.StatusCode)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A connection without requests is kept for a while, and then cut. A header
// that follows the first one has a limit too.
func TestIdleClientIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := connect(t, nothing)
		from := bufio.NewReader(conn)
		for range 2 {
			send(t, conn, "GET /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n")
			answer(t, from)
			time.Sleep(119 * time.Second) // of the bubble
		}
		expectCut(t, from, time.Second)
	})
}

// The same holds for HTTP/2: here one that sends nothing after its hello.
func TestIdleHTTP2ClientIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		conn := connect(t, nothing)
		go func() { // the server answers before it has read all of it
			const preface, emptySettings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
			if _, err := io.WriteString(conn, preface+emptySettings); err != nil { // RFC 9113 section 3.4
				t.Error(err)
			}
		}()
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Error(err)
		}
		if took := time.Since(start).Truncate(time.Minute); took != 2*time.Minute {
			t.Errorf("cut after %s, want 2m", took)
		}
	})
}

// A client that reads slowly gets its blob, however long it takes.
func TestSlowTransferIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		conn := connect(t, func(w http.ResponseWriter, _ *http.Request) {
			if n, err := w.Write(make([]byte, size)); err != nil {
				t.Errorf("%d bytes and %v", n, err)
			}
		})
		send(t, conn, "GET /v2/ HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n")
		resp := answer(t, bufio.NewReaderSize(conn, 4<<10))
		n := 0
		for buf := make([]byte, 64<<10); ; {
			time.Sleep(4 * time.Minute) // of the bubble
			got, err := io.ReadFull(resp.Body, buf)
			n += got
			if err != nil {
				break
			}
		}
		if n != size {
			t.Errorf("%d bytes, want %d", n, size)
		}
	})
}

// A client that accepts no byte is cut, whether the answer is large or small.
func TestClientThatDoesNotReadIsCut(t *testing.T) {
	for name, tc := range map[string]struct{ size, read int64 }{
		"from the start":            {1 << 20, 0},
		"after a part":              {1 << 20, 100_000},
		"a small answer":            {10, 0},
		"the rest of a small one":   {2000, 100},
		"an answer without content": {0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := connect(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = w.Write(make([]byte, tc.size))
				})
				send(t, conn, "GET /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n")
				if _, err := io.CopyN(io.Discard, conn, tc.read); err != nil {
					t.Fatal(err)
				}
				time.Sleep(stallTimeout + stallStep) // of the bubble
				synctest.Wait()
				if n, err := io.Copy(io.Discard, conn); n > 0 || err != nil {
					t.Errorf("the connection still delivers %d bytes, and %v", n, err)
				}
			})
		})
	}
}

// The same holds for one stream of an HTTP/2 connection that is otherwise alive.
func TestHTTP2StreamThatIsNotReadIsCut(t *testing.T) {
	for name, size := range map[string]int{"large": 1 << 20, "buffered at the end": 64<<10 + 100} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failed := make(chan error, 1)
				conn := connect(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/v2/" {
						return
					}
					time.Sleep(2 * stallTimeout) // the content may take long to come
					_, err := w.Write(make([]byte, size))
					failed <- err
				})
				dials := 0
				transport := &http.Transport{
					Protocols: new(http.Protocols),
					HTTP2:     &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						dials++
						return conn, nil
					},
				}
				transport.Protocols.SetUnencryptedHTTP2(true)
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport}
				get := func(path string) *http.Response {
					resp, err := client.Get("http://mirror" + path)
					if err != nil {
						t.Fatal(err)
					}
					return resp
				}
				stalled := get("/stalled")
				defer stalled.Body.Close()
				for range 10 {
					time.Sleep(time.Minute) // of the bubble
					get("/v2/").Body.Close()
				}
				select {
				case err := <-failed:
					if err == nil && size > 1<<17 {
						t.Error("the write succeeded")
					}
				default:
					t.Error("the write still waits")
				}
				if _, err := io.Copy(io.Discard, stalled.Body); err == nil {
					t.Error("the answer came whole")
				}
				if dials != 1 {
					t.Errorf("%d connections", dials)
				}
			})
		})
	}
}

// stepped is a listener whose connections count their attempts to write. Of some attempts
// the time is over before they begin, as after a pause of the machine.
type stepped struct {
	net.Listener
	steps *atomic.Int64
}

func (l stepped) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return steppedConn{conn.(*net.TCPConn), l.steps}, nil
}

type steppedConn struct {
	*net.TCPConn
	steps *atomic.Int64
}

func (c steppedConn) SetWriteDeadline(t time.Time) error {
	if c.steps.Add(1)%3 == 0 {
		t = time.Unix(1, 0)
	}
	return c.TCPConn.SetWriteDeadline(t)
}

// The kernel sends a file, in spite of the limit: pauses of the client are longer than some
// steps and shorter than the timeout, and no byte is lost or sent twice. A client that does
// not read at all is cut.
func TestPauseWhileTheKernelSends(t *testing.T) {
	content := make([]byte, 24<<20) // more than the kernel keeps for a connection
	rand.Read(content)
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		timeout time.Duration
		reads   bool
	}{"pauses": {time.Hour, true}, "reads nothing": {100 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var steps atomic.Int64
			ended := make(chan struct{})
			server := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				http.ServeFile(w, r, path)
			}), discard())
			listener := newStallListener(stepped{inner, &steps}, discard())
			listener.timeout, listener.step = c.timeout, 20*time.Millisecond
			go func() { _ = server.Serve(listener) }()
			defer server.Close()
			client := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil { // else the kernel would make room for all that is left
					err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
				}
				return conn, err
			}}
			resp, err := client.RoundTrip(httptest.NewRequest(http.MethodGet, "http://"+inner.Addr().String()+"/", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var got bytes.Buffer
			if c.reads {
				for range 2 {
					// The server retries a few times before the client goes on.
					for before := steps.Load(); steps.Load() < before+3; time.Sleep(time.Millisecond) {
						select {
						case <-ended:
							t.Fatal("the answer has ended")
						default:
						}
					}
					if _, err := io.CopyN(&got, resp.Body, 8<<20); err != nil {
						t.Fatal(err)
					}
				}
			} else {
				<-ended
			}
			_, err = io.Copy(&got, resp.Body)
			if whole := bytes.Equal(got.Bytes(), content); whole != c.reads || (err == nil) != c.reads {
				t.Errorf("%d bytes of %d, or others: %v", got.Len(), len(content), err)
			}
		})
	}
}

// A layer above, such as TLS with its farewell, has limits of its own for writes.
func TestLimitOfWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, set := range map[string]func(net.Conn, time.Time) error{"write": net.Conn.SetWriteDeadline, "both": net.Conn.SetDeadline} {
			client, server := net.Pipe()
			conn := &stallConn{Conn: server, timeout: stallTimeout, step: stallStep}
			for _, limit := range []time.Duration{5 * time.Second, stallStep + time.Second} {
				begin := time.Now()
				if err := set(conn, begin.Add(limit)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte("farewell")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != limit {
					t.Errorf("%s: %v after %s, want the limit of %s", name, err, time.Since(begin), limit)
				}
			}
			begin := time.Now()
			if err := set(conn, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("body")); err == nil || time.Since(begin) != stallTimeout {
				t.Errorf("%s, without a limit: %v after %s", name, err, time.Since(begin))
			}
			client.Close()
			server.Close()
		}
	})
}

// countedDeadlines is a connection that counts how often a deadline for writes is set.
type countedDeadlines struct {
	net.Conn
	set int
}

func (c *countedDeadlines) SetWriteDeadline(t time.Time) error {
	c.set++
	return c.Conn.SetWriteDeadline(t)
}

// Writes in a row share a deadline, of which each has half at least. A client that then reads
// nothing is cut after the timeout either way, also if the layer above took its own limit back.
func TestWritesShareADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		below := &countedDeadlines{Conn: server}
		conn := &stallConn{Conn: below, timeout: stallTimeout, step: stallStep}
		reads := make(chan int)
		go func() {
			for n := range reads {
				_, _ = io.CopyN(io.Discard, client, int64(n)) // a byte that does not come fails the write
			}
		}()
		for _, c := range []struct {
			pause time.Duration
			set   int
		}{{0, 1}, {0, 1}, {stallStep / 2, 1}, {1, 2}, {0, 2}, {time.Hour, 3}} {
			time.Sleep(c.pause)
			reads <- 4
			if _, err := conn.Write([]byte("body")); err != nil || below.set != c.set {
				t.Errorf("after %s: %v, and a deadline was set %d times, want %d", c.pause, err, below.set, c.set)
			}
		}
		close(reads)
		for _, again := range []bool{false, true} {
			begin := time.Now()
			if again {
				if err := conn.SetWriteDeadline(time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			_, err := conn.Write([]byte("body"))
			if took := time.Since(begin); err == nil || took < stallTimeout || took > stallTimeout+stallStep {
				t.Errorf("%v after %s", err, took)
			}
		}
		client.Close()
		server.Close()
	})
}
