package cluster

import (
	"container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConns bounds the connections to the listener, including those of unknown processes.
const maxConns = 512

// connKey is the key of a request's connection in its context.
type connKey struct{}

// Server returns the server of the handler. It has the limits of a listener that strangers
// may reach.
func (c *Cluster) Server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           c.handler(),
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(c.opts.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if encrypted, ok := conn.(*tls.Conn); ok {
				conn = encrypted.NetConn()
			}
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
}

// keepConn keeps the connection of a request, which a replica has sent, from making room.
func keepConn(ctx context.Context) {
	if conn, ok := ctx.Value(connKey{}).(*boundedConn); ok {
		conn.keep()
	}
}

// Listen returns a listener with a bounded number of connections. A further one takes the
// place of the oldest connection that no replica has used: a replica sends its request at
// once, so unknown processes that hold all places do not keep it out.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &boundedListener{Listener: l}, nil
}

type boundedListener struct {
	net.Listener

	mu        sync.Mutex
	number    int       // of connections
	strangers list.List // of *boundedConn, in the order of their arrival
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		bounded := &boundedConn{TCPConn: conn.(*net.TCPConn), listener: l} // of a listener of TCP
		if l.admit(bounded) {
			return bounded, nil
		}
		conn.Close()
	}
}

// admit gives a connection a place, and reports false if replicas have them all.
func (l *boundedListener) admit(c *boundedConn) bool {
	l.mu.Lock()
	var oldest *boundedConn
	if l.number >= maxConns {
		if l.strangers.Len() == 0 {
			l.mu.Unlock()
			return false
		}
		oldest = l.strangers.Front().Value.(*boundedConn) // nothing else is in the list
		oldest.leave()
	}
	l.number++
	c.place = l.strangers.PushBack(c)
	l.mu.Unlock()
	if oldest != nil {
		oldest.TCPConn.Close()
	}
	return true
}

// boundedConn has a place. It stays a *net.TCPConn for the kernel, which sends files by
// itself.
type boundedConn struct {
	*net.TCPConn
	listener *boundedListener

	// Under the mutex of the listener.
	place *list.Element // among the strangers; nil: a replica has used the connection
	left  bool
}

// leave gives the place back. The caller holds the mutex.
func (c *boundedConn) leave() {
	if c.left {
		return
	}
	c.left = true
	c.listener.number--
	c.known()
}

// known takes the connection out of the strangers'. The caller holds the mutex.
func (c *boundedConn) known() {
	if c.place != nil {
		c.listener.strangers.Remove(c.place)
		c.place = nil
	}
}

func (c *boundedConn) keep() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.known()
}

func (c *boundedConn) Close() error {
	c.listener.mu.Lock()
	c.leave()
	c.listener.mu.Unlock()
	return c.TCPConn.Close()
}

// Serve serves a listener until the server is closed.
func (c *Cluster) Serve(server *http.Server, l net.Listener) error {
	if c.opts.TLS != nil {
		l = tls.NewListener(l, c.opts.TLS)
	}
	return server.Serve(l)
}
