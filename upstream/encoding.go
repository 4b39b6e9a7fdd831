package upstream

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/weirhq/weir/oci"
)

// Every request asks for the identity coding (RFC 9110 section 12.5.3). Some proxies
// compress anyway, and some storage services name the compression of a layer as
// the coding of the answer, with the bytes of the layer itself. The digest decides which
// of the two it is: the bytes as they came, or the decoded ones.

const (
	// maxCodings bounds the work for one answer. More than two make no sense.
	maxCodings = 3
	// A decoded body may have decodedFree bytes, and maxExpansion more for each byte
	// that it was decoded from. Texts shrink to a tenth, and bombs to a thousandth.
	decodedFree  = 64 << 20
	maxExpansion = 200
)

var errBomb = fmt.Errorf("the decoded body is more than %d times as long as the encoded one", maxExpansion)

// codingsOf returns the codings of an answer in the order in which they were applied
// (RFC 9110 section 8.4), without those that change nothing: identity, and aws-chunked,
// which some storage services keep of the upload.
func codingsOf(header http.Header) []string {
	var codings []string
	for _, line := range header.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			switch coding = strings.ToLower(strings.TrimSpace(coding)); coding {
			case "", "identity", "aws-chunked":
			default:
				codings = append(codings, coding)
			}
		}
	}
	return codings
}

// encodingError says that an answer was of no use either way. It names the header, which
// may be the fault.
type encodingError struct {
	codings []string
	asItIs  error // the failure of the bytes as they came
	decoded error // the failure of the decoded bytes
}

func (e *encodingError) Error() string {
	return fmt.Sprintf("%v; the answer has Content-Encoding: %s, although none was requested, and decoded: %v", e.asItIs, strings.Join(e.codings, ", "), e.decoded)
}

// Unwrap returns the failure of the bytes as they came, which does not depend on the
// header.
func (e *encodingError) Unwrap() error { return e.asItIs }

// eitherWay calls use with a body as it came and, if that fails and the answer has
// codings, with the decoded body, of at most limit bytes.
func eitherWay(header http.Header, body []byte, limit int64, use func([]byte) error) error {
	err := use(body)
	codings := codingsOf(header)
	if err == nil || len(codings) == 0 {
		return err
	}
	decoded, decodeErr := decodeAll(body, codings, limit)
	if decodeErr == nil {
		decodeErr = use(decoded)
	}
	if decodeErr == nil {
		return nil
	}
	return &encodingError{codings, err, decodeErr}
}

func decodeAll(body []byte, codings []string, limit int64) ([]byte, error) {
	decoder, err := newDecoder(bytes.NewReader(body), codings)
	if err != nil {
		return nil, err
	}
	decoded, err := io.ReadAll(io.LimitReader(decoder, limit+1))
	if err == nil && int64(len(decoded)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return decoded, err
}

// newDecoder returns a reader of the decoded body. It fails if a coding is not known, or
// if the body does not begin as its coding does.
func newDecoder(body io.Reader, codings []string) (io.Reader, error) {
	if len(codings) > maxCodings {
		return nil, fmt.Errorf("%d codings are too many", len(codings))
	}
	encoded := &counter{Reader: body}
	decoder := io.Reader(encoded)
	for _, coding := range slices.Backward(codings) { // the last one was applied last
		var err error
		switch coding {
		case "gzip", "x-gzip":
			decoder, err = gzip.NewReader(decoder)
		case "deflate":
			decoder, err = newInflater(decoder)
		default:
			err = fmt.Errorf("the coding %.20q is not known", coding)
		}
		if err != nil {
			return nil, err
		}
		// Each of several codings has the bound, else the one below could be a bomb.
		decoder = &unfolding{Reader: decoder, encoded: encoded}
	}
	return decoder, nil
}

// newInflater reads the coding deflate, which is the format zlib. Some servers send it
// without the header of zlib.
func newInflater(body io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(body)
	begin, err := buffered.Peek(2)
	if err != nil {
		return nil, errors.New("the body is too short for its coding")
	}
	if begin[0]&0x0f == 8 && (int(begin[0])<<8|int(begin[1]))%31 == 0 { // RFC 1950 section 2.2
		return zlib.NewReader(buffered)
	}
	return flate.NewReader(buffered), nil
}

// counter counts the bytes that are read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// unfolding fails if it reads far more than was encoded.
type unfolding struct {
	io.Reader
	encoded *counter
	n       int64
}

func (u *unfolding) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	u.n += int64(n)
	if u.n > decodedFree+maxExpansion*u.encoded.n {
		return 0, errBomb
	}
	return n, err
}

// readText reads the start of an answer that is text, such as an error document: decoded
// if that is possible.
func readText(resp *http.Response, limit int64) []byte {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, limit)) // a begin is better than nothing
	codings := codingsOf(resp.Header)
	if len(codings) == 0 {
		return body
	}
	decoder, err := newDecoder(bytes.NewReader(body), codings)
	if err != nil {
		return body
	}
	text, _ := io.ReadAll(io.LimitReader(decoder, limit)) // a body that was cut decodes up to there
	if len(text) == 0 {
		return body
	}
	return text
}

// jsonOf returns the document in an answer that must be JSON: decoded if only that is.
func jsonOf(header http.Header, body []byte, limit int64) []byte {
	codings := codingsOf(header)
	if len(codings) == 0 || json.Valid(oci.TrimMark(body)) {
		return body
	}
	decoded, err := decodeAll(body, codings, limit)
	if err != nil {
		return body // its reader says why it is none
	}
	return decoded
}

// jsonReader is jsonOf of a body that is read as a stream: decoded unless its start is that
// of an object. No coding's begin is the same, nor that of a list.
func jsonReader(header http.Header, body io.Reader) (io.Reader, error) {
	codings := codingsOf(header)
	if len(codings) == 0 {
		return body, nil
	}
	buffered := bufio.NewReader(body)
	// A body that is shorter, or cannot be read, fails again below.
	begin, _ := buffered.Peek(512)
	if bytes.HasPrefix(bytes.TrimSpace(oci.TrimMark(begin)), []byte("{")) {
		return buffered, nil
	}
	decoder, err := newDecoder(buffered, codings)
	if err != nil {
		return nil, &encodingError{codings, errors.New("the body is not a JSON object"), err}
	}
	return decoder, nil
}
