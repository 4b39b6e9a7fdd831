package registry

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// FuzzRanges holds the ranges that are served to the answers of http.ServeContent: never
// more bytes than the content has, in 16 parts at most, and the hint for the request
// upstream begins where the answer does.
func FuzzRanges(f *testing.F) {
	for _, header := range []string{"bytes=0-", "bytes=1-2", "bytes=-5", "bytes=0-0,2-2", "bytes=5-,0-", "bytes=0-1,1-2", "bytes= 1 - 2 ,\t3-", "bytes=999-",
		"bytes=,,,", "bytes=-0", "items=0-1", "bytes=+1-+2", "bytes=18446744073709551616-", "bytes=1-18446744073709551616"} {
		f.Add(header, uint8(100))
	}
	f.Fuzz(func(t *testing.T, header string, size uint8) {
		content := bytes.Repeat([]byte("x"), int(size))
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.Header.Set("Range", header)
		if !worthServing(header, int64(size)) {
			request.Header.Del("Range")
		}
		recorder := httptest.NewRecorder()
		recorder.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(recorder, request, "", time.Time{}, bytes.NewReader(content))
		answer := recorder.Result()
		start, end := rangeHint(http.Header{"Range": {header}}, digest.FromBytes(content))
		if start < 0 || end != -1 && end <= start {
			t.Errorf("%q: hinted from %d to %d", header, start, end)
		}
		if bytes, parts := sentIn(t, answer); bytes > len(content) || parts > maxRanges {
			t.Errorf("%q of %d bytes: %d bytes in %d parts", header, size, bytes, parts)
		}
		var from int64
		if n, _ := fmt.Sscanf(answer.Header.Get("Content-Range"), "bytes %d-", &from); n == 1 && start > from {
			t.Errorf("%q: begins at %d, hinted from %d", header, from, start)
		}
	})
}

// sentIn returns how many bytes of a blob an answer has, and in how many parts.
func sentIn(t *testing.T, answer *http.Response) (bytes, parts int) {
	t.Helper()
	mediaType, params, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	switch {
	case err != nil:
		t.Fatal(err)
	case answer.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return 0, 0
	case mediaType != "multipart/byteranges":
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return len(body), 1
	}
	for reader := multipart.NewReader(answer.Body, params["boundary"]); ; parts++ {
		part, err := reader.NextPart()
		if err != nil {
			return bytes, parts
		}
		body, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		bytes += len(body)
	}
}
