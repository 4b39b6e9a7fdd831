package cluster

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConns bounds the connections to the listener, also those of strangers.
const maxConns = 512

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
	}
}

// Listen returns a listener with a bounded number of connections. Further ones are closed at
// once.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &boundedListener{l, make(chan struct{}, maxConns)}, nil
}

type boundedListener struct {
	net.Listener
	places chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		tcp := conn.(*net.TCPConn) // of a listener of TCP
		return &boundedConn{TCPConn: tcp, leave: sync.OnceFunc(func() { <-l.places })}, nil
	}
}

// boundedConn gives its place back. It stays a *net.TCPConn for the kernel, which sends files
// by itself.
type boundedConn struct {
	*net.TCPConn
	leave func()
}

func (c *boundedConn) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}

// Serve serves a listener until the server is closed.
func (c *Cluster) Serve(server *http.Server, l net.Listener) error {
	if c.opts.TLS != nil {
		l = tls.NewListener(l, c.opts.TLS)
	}
	return server.Serve(l)
}
