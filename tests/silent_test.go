package tests

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// forgetfulRouter forwards connections to a server. A connection that it has forgotten
// carries no further bytes, and neither side is told.
type forgetfulRouter struct {
	addr     string
	accepted atomic.Int64

	mu    sync.Mutex
	conns []*atomic.Bool // whether each one is forgotten
}

func startRouter(t *testing.T, to string) *forgetfulRouter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	harness.Must(t, err)
	r := &forgetfulRouter{addr: listener.Addr().String()}
	var running sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		listener.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			r.accepted.Add(1)
			running.Go(func() { r.forward(client, to, stop) })
		}
	})
	return r
}

func (r *forgetfulRouter) forward(client net.Conn, to string, stop <-chan struct{}) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	forgotten := new(atomic.Bool)
	r.mu.Lock()
	r.conns = append(r.conns, forgotten)
	r.mu.Unlock()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			defer func() { ended <- struct{}{} }()
			buffer := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buffer)
				if err != nil {
					return
				}
				if forgotten.Load() {
					continue
				}
				if _, err := way[1].Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
	}
	select {
	case <-ended:
	case <-stop:
	}
}

func (r *forgetfulRouter) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, forgotten := range r.conns {
		forgotten.Store(true)
	}
}

// A router on the way to the upstream forgets the connections of the mirror: pulls wait
// for some seconds, and none fails.
func TestForgottenConnections(t *testing.T) {
	testutil.Long(t, "waits for silent connections")
	t.Parallel()
	upstream := upstreamtest.New(t)
	image := upstream.AddImage("app", "v1", []byte("layer"))
	var blobs []string
	for i := range 4 {
		blobs = append(blobs, blobPath("mirror/app", upstream.AddBlob("app", fmt.Appendf(nil, "blob %d", i))))
	}
	router := startRouter(t, upstream.URL.Host)
	w := harness.StartWeir(t, blockOf("mirror", nil, []string{fmt.Sprintf("url = %q\nread_timeout_secs = 300", "http://"+router.addr)}))
	expect(t, "before", w.Get(t, manifestPath("mirror/app", "v1")), http.StatusOK, "")
	for round := range 2 {
		router.forget()
		began := time.Now() // a pull that waits for a forgotten connection takes five minutes
		var pulls sync.WaitGroup
		for i := range 2 {
			pulls.Go(func() {
				path := blobs[2*round+i]
				resp, err := http.Get(w.URL + path)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s, %q, %v", path, resp.Status, body, err)
				}
			})
		}
		expect(t, "the tag", w.Get(t, manifestPath("mirror/app", "v1")), http.StatusOK, "")
		pulls.Wait()
		if took := time.Since(began); took > harness.Patience {
			t.Errorf("round %d took %v", round, took)
		}
	}
	if image.Digest == "" || router.accepted.Load() < 2 {
		t.Errorf("%d connections", router.accepted.Load())
	}
	if w.Log.Count("a connection went silent") == 0 {
		t.Error("the log does not tell")
	}
}
