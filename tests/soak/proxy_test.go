package soak

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// proxy is a TCP proxy before a registry. It can go away and come back on its
// address, and it can stall, slow, cut and corrupt answers as networks and bad
// registries do.
type proxy struct {
	t      *testing.T
	addr   string // where it listens
	target string

	conditions atomic.Pointer[conditions]
	delivered  atomic.Int64 // bytes that came from the registry
	corrupted  atomic.Int64 // bytes that were changed
	lastLie    atomic.Int64 // when, in Unix nanoseconds

	mu       sync.Mutex
	bodies   map[string]int // requests for all that is left of a blob, by the path of the request
	listener net.Listener   // nil while it is stopped
	conns    map[net.Conn]struct{}
	running  sync.WaitGroup
}

// conditions change the answers on all connections of a proxy.
type conditions struct {
	stalled  bool          // nothing passes
	pace     time.Duration // for each chunk; 0: none
	cutAfter int64         // bytes after which a connection is reset; 0: never
	corrupt  bool          // one byte of each body of which the digest is in the request is changed
	over     chan struct{} // closed when other conditions hold
}

// chunk is the most that passes at once.
const chunk = 32 * kib

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	p := &proxy{t: t, addr: testutil.FreeAddr(t), target: target, conns: make(map[net.Conn]struct{})}
	p.conditions.Store(&conditions{over: make(chan struct{})})
	p.start()
	t.Cleanup(func() {
		p.set(conditions{})
		p.stop()
	})
	return p
}

// URL is the registry's address as the mirror knows it.
func (p *proxy) URL() string { return "http://" + p.addr }

// set changes the conditions, for running connections too.
func (p *proxy) set(c conditions) {
	c.over = make(chan struct{})
	close(p.conditions.Swap(&c).over)
}

// start accepts connections, on the same address as before.
func (p *proxy) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return
	}
	listener, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Error(err)
		return
	}
	p.listener = listener
	p.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(conn) })
		}
	})
}

// stop refuses connections and breaks those that are open.
func (p *proxy) stop() {
	p.mu.Lock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.hangUp()
	p.running.Wait()
}

// hangUp breaks all open connections.
func (p *proxy) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

// hold notes a connection, or closes it where the proxy has stopped.
func (p *proxy) hold(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		conn.Close()
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}

func (p *proxy) release(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn.Close()
	delete(p.conns, conn)
}

func (p *proxy) serve(client net.Conn) {
	if !p.hold(client) {
		return
	}
	defer p.release(client)
	registry, err := net.Dial("tcp", p.target)
	if err != nil || !p.hold(registry) {
		return
	}
	defer p.release(registry)
	x := exchange{asked: p.note}
	p.running.Go(func() {
		// The end of one direction ends both, and with it the other copy.
		defer client.Close()
		defer registry.Close()
		_, _ = io.Copy(registry, io.TeeReader(client, &x))
	})
	p.deliver(client, registry, &x)
}

// asked returns how often a blob was asked for.
func (p *proxy) asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bodies[path]
}

// note counts a request for the body of a blob from its first byte on. One for
// a sample, or for the rest of a body, is none.
func (p *proxy) note(request []byte) {
	parsed, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
	if err != nil || parsed.Method != http.MethodGet || !strings.Contains(parsed.URL.Path, "/blobs/") {
		return
	}
	if part := parsed.Header.Get("Range"); part != "" && part != "bytes=0-" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bodies == nil {
		p.bodies = make(map[string]int)
	}
	p.bodies[parsed.URL.Path]++
}

// deliver copies the answers of the registry, under the conditions of the
// moment.
func (p *proxy) deliver(client, registry net.Conn, x *exchange) {
	buf := make([]byte, chunk)
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	var passed int64
	for {
		n, err := registry.Read(buf)
		if n > 0 {
			p.delivered.Add(int64(n))
			c := p.endure()
			if x.answer(buf[:n], c.corrupt, random) {
				p.lastLie.Store(time.Now().UnixNano())
				p.corrupted.Add(1)
			}
			passed += int64(n)
			if c.cutAfter > 0 && passed > c.cutAfter {
				reset(client)
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				reset(client)
			}
			return
		}
	}
}

// endure waits as long as the conditions ask for, and returns those that hold
// then. Network conditions are times, so this is one of the few places that
// wait for a time to pass.
func (p *proxy) endure() *conditions {
	for {
		c := p.conditions.Load()
		switch {
		case c.stalled:
			<-c.over
		case c.pace > 0:
			timer := time.NewTimer(c.pace)
			select {
			case <-timer.C:
			case <-c.over:
				timer.Stop()
			}
			return c
		default:
			return c
		}
	}
}

// reset breaks a connection with a TCP reset.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}
