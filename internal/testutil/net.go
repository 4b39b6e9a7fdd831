package testutil

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// The ports to choose from lie below those that Linux gives to outgoing
// connections and to listeners on port 0: another process cannot take the port
// of a server that is stopped and started again.
const (
	firstPort = 20000
	portCount = 12700
)

// FreeAddr returns an address of the loopback interface on which no server
// listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var err error
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(portCount)))
		var listener net.Listener
		if listener, err = net.Listen("tcp", addr); err == nil {
			listener.Close()
			return addr
		}
	}
	t.Fatalf("no free port on the loopback interface: %v", err)
	return ""
}
