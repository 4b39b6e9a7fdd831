package registry_test

import (
	"io"
	"mime"
	"mime/multipart"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestRanges(t *testing.T) {
	const size = 3 << 20
	content, _ := io.ReadAll(upstreamtest.RandomBlob(size, 1))
	etag := `"` + digest.FromBytes(content).String() + `"`
	for name, test := range map[string]struct {
		header, ifRange string
		status          int
		start, end      int
	}{
		"first":            {"bytes=0-99", "", 206, 0, 100},
		"open":             {"bytes=1000-", "", 206, 1000, size},
		"far":              {"bytes=2500000-2500099", "", 206, 2500000, 2500100},
		"suffix":           {"bytes=-100", "", 206, size - 100, size},
		"beyond the end":   {"bytes=3145727-9999999", "", 206, size - 1, size},
		"If-Range":         {"bytes=5-9", etag, 206, 5, 10},
		"If-Range differs": {"bytes=2500000-", `"x"`, 200, 0, size},
		"unknown unit":     {"lines=1-2", "", 200, 0, size},
		"malformed":        {"bytes=9-5", "", 416, 0, 0},
		"at the end":       {"bytes=3145728-", "", 416, 0, 0},
		"far beyond":       {"bytes=99999999-", "", 416, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := pair(t)
			dgst := r.AddRandomBlob("app", size, 1)
			for _, warm := range []bool{false, true} {
				header := []string{"Range", test.header}
				if test.ifRange != "" {
					header = append(header, "If-Range", test.ifRange)
				}
				w := m.do("GET", "/v2/up.example/app/blobs/"+dgst.String(), header...)
				wantStatus(t, w, test.status)
				m.settle()
				if test.status == 200 && (len(r.Requests()) != 1 || strings.Contains(r.Requests()[0], "bytes=")) {
					t.Errorf("the upstream was asked for a range that nobody wants: %v", r.Requests())
				}
				if test.status == 416 {
					if test.start == 0 && strings.HasPrefix(test.header, "bytes=") && !strings.Contains(name, "malformed") {
						wantHeader(t, w.Header(), "Content-Range", "bytes */"+strconv.Itoa(size))
					}
					continue
				}
				if w.Body.String() != string(content[test.start:test.end]) {
					t.Errorf("warm=%v: %d bytes", warm, w.Body.Len())
				}
				want := ""
				if test.status == 206 {
					want = "bytes " + strconv.Itoa(test.start) + "-" + strconv.Itoa(test.end-1) + "/" + strconv.Itoa(size)
				}
				wantHeader(t, w.Header(), "Content-Range", want, "Content-Length", strconv.Itoa(test.end-test.start))
			}
		})
	}
}

func TestSeveralRanges(t *testing.T) {
	const size = 3 << 20
	content, _ := io.ReadAll(upstreamtest.RandomBlob(size, 1))
	r, m := pair(t)
	dgst := r.AddRandomBlob("app", size, 1)
	for range 2 {
		w := m.do("GET", "/v2/up.example/app/blobs/"+dgst.String(), "Range", "bytes=0-9,2500000-2500009,-5")
		wantStatus(t, w, 206)
		_, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		parts := multipart.NewReader(w.Body, params["boundary"])
		for _, want := range [][]byte{content[:10], content[2500000:2500010], content[size-5:]} {
			part, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(part); err != nil || string(got) != string(want) {
				t.Errorf("%s: %d bytes, %v", part.Header.Get("Content-Range"), len(got), err)
			}
		}
		m.settle()
	}
}

// leaving is a client that goes after some bytes.
type leaving struct {
	*httptest.ResponseRecorder
	left int
}

func (w *leaving) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// TestClientLeavesSeveralRanges has http.ServeContent's goroutine still read
// when the handler is done: the race detector sees what that touches.
func TestClientLeavesSeveralRanges(t *testing.T) {
	r, m := pair(t)
	dgst := r.AddRandomBlob("app", 3<<20, 1)
	for range 20 {
		func() {
			defer func() { recover() }() // http.ErrAbortHandler
			req := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/up.example/app/blobs/"+dgst.String(), nil)
			req.Header.Set("Range", "bytes=0-999999,1000001-2000000,2000002-")
			m.handler.ServeHTTP(&leaving{httptest.NewRecorder(), 100_000}, req)
		}()
	}
}

// TestManyRanges has requests for ranges that together cost more than the blob. However
// many there are, the upstream is asked once.
func TestManyRanges(t *testing.T) {
	const size = 3 << 20
	ranges := func(n int, format func(i int) string) string {
		specs := make([]string, n)
		for i := range specs {
			specs[i] = format(i)
		}
		return "bytes=" + strings.Join(specs, ",")
	}
	ascending := func(i int) string { return strconv.Itoa(i*180_000) + "-" + strconv.Itoa(i*180_000+9) }
	for name, test := range map[string]struct {
		header string
		status int
	}{
		"sixteen":                    {ranges(16, ascending), 206},
		"seventeen":                  {ranges(17, ascending), 200},
		"thousands":                  {ranges(3053, func(i int) string { return strconv.Itoa(i*1000) + "-" + strconv.Itoa(i*1000) }), 200},
		"thousands of empty ones":    {"bytes=0-9" + strings.Repeat(",", 3000), 200},
		"the same one again":         {"bytes=2000000-2000009,2000000-2000009", 200},
		"overlapping":                {"bytes=0-1000,500-1500", 200},
		"descending":                 {"bytes=2500000-2500009,0-9", 200},
		"overlapping with the end":   {"bytes=2000000-,-5", 200},
		"the end before the start":   {"bytes=-5,0-9", 200},
		"the end, twice":             {"bytes=-5,-10", 200},
		"touching":                   {"bytes=0-9,10-19", 206},
		"one is beyond the end":      {"bytes=0-9,9999999-", 206},
		"spaces and an empty one":    {"bytes=0-9 , , 2500000-2500009", 206},
		"one is malformed":           {"bytes=0-9,9-5", 416},
		"none within":                {"bytes=9999999-,99999999-", 416},
		"beyond a 64-bit number":     {"bytes=0-9,99999999999999999999-", 416},
		"up to a 64-bit number":      {"bytes=0-9,20-9223372036854775807", 206},
		"a range before an open one": {"bytes=2500000-2500009,2600000-", 206},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := pair(t)
			dgst := r.AddRandomBlob("app", size, 1)
			for _, state := range []string{"cold", "warm"} {
				w := m.do("GET", "/v2/up.example/app/blobs/"+dgst.String(), "Range", test.header)
				wantStatus(t, w, test.status)
				if w.Code == 200 && w.Body.Len() != size {
					t.Errorf("%s: %d bytes", state, w.Body.Len())
				}
				m.settle()
			}
			if len(r.Requests()) != 1 {
				t.Errorf("%d requests upstream, want 1", len(r.Requests()))
			}
		})
	}
}
