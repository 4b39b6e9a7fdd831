package app

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
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
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
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

// The same holds for HTTP/2: here one that says hello and no more.
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
			time.Sleep(time.Hour) // of the bubble
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
