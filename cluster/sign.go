package cluster

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/seal"
	"github.com/weirhq/weir/oci"
)

const (
	// maxAge bounds the age of a request, and the difference of two clocks.
	maxAge = time.Minute
	// scheme is that of the header Authorization.
	scheme = "Weir "
	// versionHeader has the version of the requests and answers.
	versionHeader = "Weir-Cluster"
	// placeHeader has the offset and the size of an answer, such as "1048576/8388608";
	// "*" is a size that is not known.
	placeHeader = "Weir-Place"
	// idHeader has the name of the process that answers.
	idHeader = "Weir-Replica"
	// pingPath is asked for the name of a replica.
	pingPath = "/replica"
	// blobsPath is followed by a digest.
	blobsPath = "/blobs/"
)

// signer seals requests between replicas, and checks the seals. Without a secret it accepts
// all of them: the certificates of replicas decide.
type signer struct{ sealer *seal.Sealer }

// request is a request for a blob of another replica. A request for its name has no
// digest.
type request struct {
	digest digest.Digest
	block  string
	offset int64
	stored bool // a running download is not an answer
}

func (r request) fields(at string) []string {
	return []string{r.digest.String(), r.block, strconv.FormatInt(r.offset, 10), strconv.FormatBool(r.stored), at}
}

// path returns the path and the query of the request.
func (r request) path() string {
	if r.digest == "" {
		return pingPath
	}
	query := url.Values{"block": {r.block}}
	if r.stored {
		query.Set("stored", "1")
	}
	return blobsPath + r.digest.String() + "?" + query.Encode()
}

// sign adds the headers of a request.
func (s *signer) sign(h http.Header, r request, now time.Time) {
	at := strconv.FormatInt(now.UnixMilli(), 10)
	h.Set(versionHeader, strconv.Itoa(version))
	h.Set("Authorization", scheme+at+" "+s.sealer.Seal(r.fields(at)...))
	if r.digest != "" {
		h.Set("Range", fmt.Sprintf("bytes=%d-", r.offset))
	}
}

// check returns an error unless a replica with the same secret made the request within the
// last minute.
func (s *signer) check(h http.Header, r request, now time.Time) error {
	at, sealed, _ := strings.Cut(strings.TrimPrefix(h.Get("Authorization"), scheme), " ")
	if s.sealer == nil {
		return nil
	}
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil || !s.sealer.Valid(sealed, r.fields(at)...) {
		return ErrRefused
	}
	// After the seal: only a replica learns that the clocks differ.
	if age := now.Sub(time.UnixMilli(ms)).Abs(); age > maxAge {
		return ErrClock
	}
	return nil
}

// parseRequest reads the request for a blob. It reports false if there is none.
func parseRequest(r *http.Request) (request, bool) {
	dgst, err := oci.ParseDigest(strings.TrimPrefix(r.URL.Path, blobsPath))
	if err != nil {
		return request{}, false
	}
	first, open := strings.CutSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	offset, err := strconv.ParseInt(first, 10, 64)
	if err != nil || !open || offset < 0 {
		return request{}, false
	}
	query := r.URL.Query()
	return request{digest: dgst, block: query.Get("block"), offset: offset, stored: query.Get("stored") == "1"}, true
}

// place is the header with the position of the bytes of an answer.
func place(offset, size int64) string {
	if size < 0 {
		return strconv.FormatInt(offset, 10) + "/*"
	}
	return fmt.Sprintf("%d/%d", offset, size)
}

// parsePlace reads the header of an answer. It reports false if the answer does not begin at
// the offset.
func parsePlace(text string, offset int64) (size int64, ok bool) {
	first, whole, _ := strings.Cut(text, "/")
	if at, err := strconv.ParseInt(first, 10, 64); err != nil || at != offset {
		return 0, false
	}
	if whole == "*" {
		return -1, true
	}
	size, err := strconv.ParseInt(whole, 10, 64)
	return size, err == nil && size >= offset
}
