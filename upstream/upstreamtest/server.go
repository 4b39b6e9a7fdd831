package upstreamtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

// server is an HTTP server that can stop and start again on its address.
type server struct {
	t       testing.TB
	url     *url.URL
	handler http.Handler
	tls     *tls.Config // nil: plain
	network *Network    // nil: TCP

	mu   sync.Mutex
	addr string
	http *http.Server // nil while closed
	done chan struct{}
}

// start starts one of the registry's servers.
func (r *Registry) start(name string, handler http.Handler, clientCert bool) *server {
	r.t.Helper()
	s := &server{t: r.t, handler: handler, network: r.config.network}
	scheme := "http"
	if r.certs != nil {
		scheme = "https"
		s.tls = r.certs.serverConfig(clientCert)
	}
	if s.network != nil {
		s.addr = r.config.host
		if name != "" {
			s.addr = name + "." + s.addr
		}
		s.addr = withPort(s.addr, scheme)
	}
	s.listen()
	host := s.addr
	if name == "token" && s.network == nil {
		// Some clients (crane) refuse a realm at a loopback address.
		_, port, _ := net.SplitHostPort(host) // a listener's address has one
		host = net.JoinHostPort("localhost", port)
	}
	s.url = &url.URL{Scheme: scheme, Host: host}
	return s
}

func (s *server) listen() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return
	}
	listener, err := s.listener()
	if err != nil {
		s.t.Fatalf("upstreamtest: %v", err)
	}
	s.addr = listener.Addr().String()
	s.http = &http.Server{Handler: s.handler, TLSConfig: s.tls, ErrorLog: log.New(io.Discard, "", 0)}
	s.done = make(chan struct{})
	go func(server *http.Server, done chan struct{}) {
		defer close(done)
		if s.tls != nil {
			server.ServeTLS(listener, "", "")
		} else {
			server.Serve(listener)
		}
	}(s.http, s.done)
}

func (s *server) listener() (net.Listener, error) {
	if s.network != nil {
		return s.network.Listen(s.addr)
	}
	if s.addr != "" {
		return net.Listen("tcp", s.addr)
	}
	// A server of another test may take the address meanwhile.
	var listener net.Listener
	var err error
	for range 10 {
		if listener, err = net.Listen("tcp", testutil.FreeAddr(s.t)); err == nil {
			return listener, nil
		}
	}
	return nil, err
}

func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return
	}
	s.http.Close()
	<-s.done
	s.http = nil
}

// Network is a network in memory, of registries or of any other servers. Its names need no DNS.
// A connection to a name without a listener is refused.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
	hang      map[string]bool
	dials     map[string]int
}

// NewNetwork returns an empty network.
func NewNetwork() *Network {
	return &Network{listeners: make(map[string]*pipeListener), hang: make(map[string]bool), dials: make(map[string]int)}
}

// DialContext connects to a server of the network.
func (n *Network) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[addr]++
	listener, hang := n.listeners[addr], n.hang[addr]
	n.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	if listener == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("connection to %s refused", addr)}
	}
	client, server := net.Pipe()
	select {
	case listener.conns <- server:
		return client, nil
	case <-listener.closed:
	case <-ctx.Done():
	}
	client.Close()
	server.Close()
	return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("connection to %s refused", addr)}
}

// Hang makes connects to addr (host:port) neither succeed nor fail, or ends that.
func (n *Network) Hang(addr string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hang[addr] = on
}

// Dials returns the number of connects to addr (host:port), failed ones included.
func (n *Network) Dials(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[addr]
}

// Dialed returns all addresses that were connected to, failed connects included.
func (n *Network) Dialed() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.dials))
}

// Alias makes an address lead to the server of another one.
func (n *Network) Alias(addr, of string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = n.listeners[of]
}

// Listen returns the listener of addr (host:port).
func (n *Network) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("address %s is in use", addr)
	}
	l := &pipeListener{network: n, addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

type pipeListener struct {
	network *Network
	addr    string
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.network.mu.Lock()
		defer l.network.mu.Unlock()
		delete(l.network.listeners, l.addr)
	})
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.addr) }

type pipeAddr string

func (a pipeAddr) Network() string { return "pipe" }
func (a pipeAddr) String() string  { return string(a) }

func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(host, map[string]string{"http": "80", "https": "443"}[scheme])
}
