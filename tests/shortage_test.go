package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A mirror that has run out of open files blames no upstream: the answer is 503 and never
// "not found", and the first request after the shortage succeeds.
func TestTooManyOpenFiles(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	upstream.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeirAs(t, t.TempDir(), block("mirror", upstream), func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 64; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
	})
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", w.Addr)
		harness.Must(t, err)
		t.Cleanup(func() { conn.Close() })
		harness.Must(t, conn.SetDeadline(time.Now().Add(harness.Patience)))
		return conn
	}
	client := dial()
	answers := bufio.NewReader(client)
	get := func(path string) (*http.Response, string) {
		_, err := fmt.Fprintf(client, "GET %s HTTP/1.1\r\nHost: mirror\r\n\r\n", path)
		harness.Must(t, err)
		resp, err := http.ReadResponse(answers, nil)
		harness.Must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		harness.Must(t, err)
		return resp, string(body)
	}
	get("/v2/")
	var others []net.Conn
	for range 80 { // more than the limit: the last ones are not accepted
		others = append(others, dial())
	}
	harness.Eventually(t, "the log names the shortage", func() bool { return strings.Contains(w.Log.String(), "cannot accept connections of clients") })
	for i := range 5 {
		resp, body := get(manifestPath("mirror/org/app", "v1"))
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "LimitNOFILE") {
			t.Errorf("request %d without open files: %d %v %s", i, resp.StatusCode, resp.Header, body)
		}
	}
	for _, conn := range others {
		conn.Close()
	}
	harness.Eventually(t, "a new connection is accepted", func() bool {
		resp, _ := get("/v2/")
		conn, err := net.Dial("tcp", w.Addr) // its answer shows that there are files again
		harness.Must(t, err)
		defer conn.Close()
		_, err = fmt.Fprint(conn, "GET /v2/ HTTP/1.0\r\n\r\n")
		harness.Must(t, err)
		harness.Must(t, conn.SetDeadline(time.Now().Add(harness.Patience)))
		_, err = io.ReadAll(conn)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	if resp, body := get(manifestPath("mirror/org/app", "v1")); resp.StatusCode != http.StatusOK {
		t.Errorf("after the shortage: %d %s", resp.StatusCode, body)
	}
	log := w.Log.String()
	if !strings.Contains(log, "this machine lacks a resource for connections") || strings.Contains(log, "the upstream is unreachable") {
		t.Error("the log does not blame this machine, or blames the upstream")
	}
}
