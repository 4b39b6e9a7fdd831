package soak

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
)

// exchange follows the requests and answers on one connection, as far as it
// takes to change a byte in the body of an answer, and never one of its
// headers: a changed status would be the registry's word. Requests are not
// pipelined, so a request's first byte ends the answer before.
type exchange struct {
	mu         sync.Mutex
	verifiable bool                 // the request says the digest of the answer's body
	asked      func(request []byte) // sees each request; may be nil
	header     []byte               // the answer's header so far; nil when it is complete
	inHeader   bool
	left       int64 // bytes of the body before the one to change; negative: none
}

// Write sees the requests of the mirror, one at a time.
func (x *exchange) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	line, _, _ := bytes.Cut(p, []byte("\r\n"))
	if x.asked != nil {
		x.asked(p)
	}
	x.verifiable = bytes.HasPrefix(line, []byte("GET ")) && bytes.Contains(line, []byte("sha256:"))
	x.header, x.inHeader, x.left = nil, true, -1
	return len(p), nil
}

// answer sees a chunk of an answer, changes a byte where it is that one's turn,
// and reports whether it did.
func (x *exchange) answer(p []byte, corrupt bool, random *rand.Rand) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	body := p
	if x.inHeader {
		x.header = append(x.header, p...)
		_, after, complete := bytes.Cut(x.header, []byte("\r\n\r\n"))
		if !complete {
			return false
		}
		x.inHeader = false
		if corrupt && x.verifiable {
			x.left = choose(x.header, random)
		}
		x.header, body = nil, p[len(p)-len(after):]
	}
	if x.left < 0 {
		return false
	}
	at := x.left
	x.left -= int64(len(body))
	if x.left >= 0 {
		return false
	}
	body[at] ^= 0x20
	x.left = -1
	return true
}

// choose chooses the byte of an answer's body to change, or -1.
func choose(header []byte, random *rand.Rand) int64 {
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(header))), nil)
	if err != nil {
		return -1
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent || resp.ContentLength <= 0 {
		return -1
	}
	return random.Int64N(resp.ContentLength)
}
