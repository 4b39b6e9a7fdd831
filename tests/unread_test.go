package tests

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Clients that accept no byte of an answer lose their connections after five minutes, so
// that the mirror has as many open files as before.
func TestClientsThatDoNotReadAreCut(t *testing.T) {
	t.Parallel()
	testutil.Long(t, "waits for the five minutes that a client may pause")
	const size, clients = 32 * mib, 40
	upstream := upstreamtest.New(t)
	stored, running := addRandom(t, upstream, "org/app", size, 90), addRandom(t, upstream, "org/app", size, 91)
	w := harness.StartWeir(t, block("mirror", upstream))
	expectContent(t, "cold", w.Get(t, blobPath("mirror/org/app", stored)), stored, statusStored)
	idle := w.Metric(t, "process_open_fds")
	for i := range clients {
		conn, err := net.Dial("tcp", w.Addr)
		harness.Must(t, err)
		defer conn.Close()
		harness.Must(t, conn.(*net.TCPConn).SetReadBuffer(4*kib))
		dgst := stored // sent by the kernel
		if i%2 == 0 {
			dgst = running // sent by the mirror, as it comes
		}
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: mirror\r\n\r\n", blobPath("mirror/org/app", dgst))
		harness.Must(t, err)
	}
	harness.Eventually(t, "each client has a connection", func() bool { return w.Metric(t, "process_open_fds") >= idle+clients })
	time.Sleep(5 * time.Minute)
	// The look at a client's progress comes four times a minute, and a client may have been busy at first.
	var left float64
	if !harness.Within(90*time.Second, func() bool {
		time.Sleep(time.Second)
		left = w.Metric(t, "process_open_fds")
		return left <= idle+2 // connections to the upstream
	}) {
		t.Errorf("the mirror has %v open files, and had %v before %d clients that do not read", left, idle, clients)
	}
}
