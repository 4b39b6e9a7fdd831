package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// raw sends bytes on a connection of their own, and returns the answer.
func raw(t *testing.T, w *harness.Weir, method, request string) (harness.Answer, error) {
	t.Helper()
	conn, err := net.Dial("tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	// A mirror that has refused may close before it has read everything.
	_, _ = io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return harness.Answer{}, err
	}
	defer resp.Body.Close()
	a := harness.Answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, a.Err = io.ReadAll(resp.Body)
	return a, nil
}

// Names, references and digests outside the grammar are refused, and touch
// neither an upstream nor the disk.
func TestHostilePaths(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	hex := strings.Repeat("a", 64)
	dir := t.TempDir()
	w := harness.StartWeirIn(t, dir, block("mirror", upstream, "default = true"))
	w.MetricIs(t, 0, "weir_store_objects")
	before := files(t, dir)

	const manifests, blobs = "/v2/mirror/org/app/manifests/", "/v2/mirror/org/app/blobs/"
	for _, path := range []string{
		// Ways out of the tree.
		"/v2/../../etc/passwd", "/v2/mirror/../../../etc/manifests/v1", "/v2/mirror/./app/manifests/v1",
		"/v2/mirror/..%2f..%2fetc/manifests/v1", "/v2/mirror/%2e%2e/%2e%2e/manifests/v1", "/v2/mirror%2forg/app/manifests/v1",
		manifests + "..", manifests + ".", manifests + "%2e%2e", manifests + "..%2f..%2fpasswd", manifests + "a%2fb", manifests + "a%5cb",
		blobs + "..", blobs + "sha256:..%2f..%2f" + hex, blobs + "sha256:../" + hex, "/v2/mirror//app/manifests/v1", "/v2//manifests/v1",
		// Names.
		"/v2/mirror/Org/app/manifests/v1", "/v2/mirror/org/app%00/manifests/v1", "/v2/mirror/org/a%20b/manifests/v1",
		"/v2/mirror/org/-app/manifests/v1", "/v2/mirror/org/app-/manifests/v1", "/v2/mirror/org/a..b/manifests/v1",
		"/v2/mirror/org/a___b/manifests/v1", "/v2/mirror/_tags/manifests/v1", "/v2/mirror/org/%C3%A4pp/manifests/v1",
		"/v2/mirror/" + strings.Repeat("a/", 130) + "b/manifests/v1", "/v2/" + strings.Repeat("a", 256) + "/manifests/v1",
		"/v2/mirror/org/app:80/manifests/v1", "/v2/mirror/org/app@sha256/manifests/v1", "/v2/mirror/org/app%0d%0aX:%20y/manifests/v1",
		// References.
		manifests, manifests + "-v1", manifests + ".v1", manifests + "v1%00", manifests + "v%201", manifests + "v1%0a",
		manifests + strings.Repeat("v", 129), manifests + "v1/extra", manifests + "%ff",
		// Digests.
		manifests + "sha256:abc", manifests + "sha256:" + strings.ToUpper(hex), manifests + "md5:" + hex[:32],
		blobs, blobs + "v1", blobs + "sha256:" + hex + "a", blobs + "sha256:" + hex[1:], blobs + "sha256:" + strings.ToUpper(hex),
		blobs + "sha256:" + hex[1:] + "g", blobs + "sha256:" + hex[1:] + "%00", blobs + "SHA256:" + hex, blobs + "sha256%3a" + hex + "%00",
		blobs + "sha512:" + hex, blobs + "sha384:" + hex[:48] + hex[:48], blobs + "sha256:", blobs + ":" + hex, blobs + "unknown:" + hex,
		blobs + "sha256:" + hex + "/extra", "/v2/mirror/org/app/referrers/v1", "/v2/mirror/org/app/referrers/sha256:" + hex[1:],
		// Paths that do not exist.
		"/v2/mirror/org/app", "/v2/mirror/org/app/", "/v2/mirror/org/app/tags", "/v2/mirror/org/app/tags/other", "/v2/_catalog/x",
		"/v2/mirror/org/app/tags/list?n=-1", "/v2/mirror/org/app/tags/list?n=x", "/v2/_catalog?n=99999999999999999999",
		"/v2/mirror/org/app/unknown/v1", "/v2/mirror/org/app/blobs/uploads/", "/v2/manifests/v1", "/v2/_oci/ext/discover",
	} {
		for _, request := range []string{
			"GET " + path + " HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n",
			"GET " + path + " HTTP/1.0\r\n\r\n",
			"GET http://elsewhere.example" + path + " HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n",
			"HEAD " + path + " HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n",
		} {
			method, _, _ := strings.Cut(request, " ")
			a, err := raw(t, w, method, request)
			label := fmt.Sprintf("%.120q", request)
			if err != nil {
				t.Errorf("%s: %v", label, err)
				continue
			}
			if a.Status < 400 || a.Status > 499 {
				t.Errorf("%s: %d %s", label, a.Status, a.Body)
			}
			if method == http.MethodGet && a.ErrorCode() == "" {
				t.Errorf("%s: %d with a body that is no OCI error: %.200q", label, a.Status, a.Body)
			}
			if got := a.Header.Get("Docker-Distribution-Api-Version"); got != "registry/2.0" {
				t.Errorf("%s: Docker-Distribution-Api-Version %q", label, got)
			}
		}
	}
	// Requests that HTTP itself refuses.
	for _, request := range []string{
		"GET " + manifests + "v\x001 HTTP/1.1\r\nHost: mirror\r\n\r\n",
		"GET " + manifests + "%zz HTTP/1.1\r\nHost: mirror\r\n\r\n",
		"GET " + manifests + "v 1 HTTP/1.1\r\nHost: mirror\r\n\r\n",
		"GET " + manifests + "v1 HTTP/1.1\r\n\r\n",
		"GET " + manifests + "v1 HTTP/9.9\r\nHost: mirror\r\n\r\n",
		"GET " + manifests + "v1 HTTP/1.1\r\nHost: mirror\r\nContent-Length: 1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
		"\x16\x03\x01\x00\x05hello\r\n\r\n",
	} {
		if a, err := raw(t, w, http.MethodGet, request); err == nil && (a.Status < 400 || a.Status > 505) {
			t.Errorf("%q: %d", request, a.Status)
		}
	}
	expectWire(t, upstream, "all hostile requests")
	if after := files(t, dir); !slices.Equal(before, after) {
		t.Errorf("there are files %q, were %q", after, before)
	}
	expect(t, "alive", w.Get(t, "/v2/"), http.StatusOK, "")
}

// files returns the names of all files and directories below a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A write is refused without a look at its body.
func TestWriteIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream))
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		for path, status := range map[string]int{
			"/v2/mirror/org/app/blobs/uploads/":  http.StatusUnauthorized,
			manifestPath("mirror/org/app", "v1"): http.StatusUnauthorized,
			"/v2/other/app/blobs/uploads/":       http.StatusNotFound,
		} {
			// The body that is announced never comes.
			a, err := raw(t, w, method, method+" "+path+" HTTP/1.1\r\nHost: mirror\r\nContent-Length: 1000000000000\r\n\r\nx")
			if err != nil {
				t.Errorf("%s %s: %v", method, path, err)
				continue
			}
			code, message := "UNAUTHORIZED", "mirror/org/app is a read-only mirror of "+upstream.Host
			if status == http.StatusNotFound {
				code, message = "NAME_UNKNOWN", "other/app"
			}
			if a.Status != status || a.ErrorCode() != code || !strings.Contains(string(a.Body), message) {
				t.Errorf("%s %s: %d %s", method, path, a.Status, a.Body)
			}
		}
	}
	expectWire(t, upstream, "writes")
}

// A method of neither a pull nor a push is refused, and the answer names those that
// are served.
func TestOtherMethods(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, block("mirror", upstream))
	for _, method := range []string{"OPTIONS", "TRACE", "PROPFIND", "QUERY", "CONNECT", "get", "Delete"} {
		for _, path := range []string{"/v2/", "/v2/_catalog", manifestPath("mirror/org/app", "v1"), "/v2/other/app/tags/list"} {
			a, err := raw(t, w, method, method+" "+path+" HTTP/1.1\r\nHost: mirror\r\n\r\n")
			if err != nil || a.Status != http.StatusMethodNotAllowed || a.ErrorCode() != "UNSUPPORTED" || a.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d %v %s, %v", method, path, a.Status, a.Header, a.Body, err)
			}
		}
	}
	// The server's own capabilities are no path of the API.
	if a, err := raw(t, w, "OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: mirror\r\n\r\n"); err != nil || a.Status != http.StatusOK {
		t.Errorf("OPTIONS *: %d %s, %v", a.Status, a.Body, err)
	}
	expectWire(t, upstream, "other methods")
}

// Headers have a limit, which is far above the headers of clients.
func TestLargeHeaders(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, block("mirror", upstreamtest.New(t)))
	for size, status := range map[int]int{32 * kib: http.StatusOK, 128 * kib: http.StatusRequestHeaderFieldsTooLarge} {
		a, err := raw(t, w, http.MethodGet, "GET /v2/ HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\nX-Large: "+strings.Repeat("x", size)+"\r\n\r\n")
		if err != nil || a.Status != status {
			t.Errorf("%d bytes of headers: %d, %v", size, a.Status, err)
		}
	}
}

// Odd ranges are ignored or refused, never more than the blob, and never many
// downloads.
func TestHostileRanges(t *testing.T) {
	t.Parallel()
	const size = 256 * kib
	upstream := upstreamtest.New(t)
	dgst := addRandom(t, upstream, "org/app", size, 40)
	w := harness.StartWeir(t, block("mirror", upstream))
	for _, value := range []string{
		"bytes=5-2", "bytes=-", "bytes=", "bytes=a-b", "items=0-5", "bytes=99999999999999999999-", "bytes=-0",
		"bytes=0-" + strings.Repeat(",0-", 500), "bytes=-1,-2,-3", "bytes=0-0,1-1,2-2", "bytes=9223372036854775807-", "bytes=0-9223372036854775807",
	} {
		a := w.Get(t, blobPath("mirror/org/app", dgst), "Range", value)
		if a.Err != nil || a.Status != http.StatusOK && a.Status != http.StatusPartialContent && a.Status != http.StatusRequestedRangeNotSatisfiable || len(a.Body) > size+kib {
			t.Errorf("Range %.60s: %d, %d bytes, %v", value, a.Status, len(a.Body), a.Err)
		}
	}
	w.MetricIs(t, 0, "weir_downloads")
	expectContent(t, "warm", w.Get(t, blobPath("mirror/org/app", dgst)), dgst, statusHit)
}
