package app

import (
	"context"
	"net"
	"syscall"
)

const (
	// maxRedisReply bounds the bytes between two commands. The longest answer is that
	// to COMMAND, of some 300 KiB; a subscription gets a command every 5 s.
	maxRedisReply = 4 << 20
	// maxRedisString bounds one string. The longest is the record of a token, of at
	// most 24 KiB.
	maxRedisString = 64 << 10
	// maxRedisElements bounds one list. The longest is the list of all commands.
	maxRedisElements = 16 << 10
	// maxRedisSum bounds the elements of all lists between two commands. A pair of a map
	// counts as two. COMMAND has 12,000, and CLUSTER SLOTS has 13 for each range of slots
	// with one replica: 213,000 if each of the 16,384 slots is a range of its own. The client
	// takes 16 bytes for an element, and some 40 if it is of a map: 10 MiB.
	maxRedisSum = 256 << 10
	// maxRedisDepth bounds the lists within lists. COMMAND has eight levels: commands, their
	// subcommands, and the specifications of the keys of those.
	maxRedisDepth = 8
	// maxRedisHeader bounds the digits of a length.
	maxRedisHeader = 32
)

// redisConn is a connection to Redis whose answers are bounded. The client has no such
// limit: it allocates as much memory as a header announces, before any of it has come.
type redisConn struct {
	net.Conn
	replies replyScanner
	refused error // of all further reads
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// bounded returns a dialer of connections whose answers are bounded.
func (d dialer) bounded(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	bounded := &redisConn{Conn: conn}
	if plain, ok := conn.(*net.TCPConn); ok {
		return &checkedConn{bounded, plain}, nil
	}
	return bounded, nil
}

// checkedConn is a connection of which the client can see that its server has ended it,
// before it sends a command. Over TLS it cannot.
type checkedConn struct {
	*redisConn
	plain *net.TCPConn
}

func (c *checkedConn) SyscallConn() (syscall.RawConn, error) { return c.plain.SyscallConn() }

func (c *redisConn) Read(p []byte) (int, error) {
	if c.refused != nil {
		return 0, c.refused
	}
	n, err := c.Conn.Read(p)
	if c.refused = c.replies.scan(p[:n]); c.refused != nil {
		return 0, c.refused
	}
	return n, err
}

func (c *redisConn) Write(p []byte) (int, error) {
	c.replies.command()
	return c.Conn.Write(p)
}
