package app

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
)

// replyScanner follows the answers of Redis (RESP, version 3) and finds lengths beyond
// the bounds before a client believes them.
//
//	header --- "$5\r\n" ---> string: 5 bytes and \r\n are skipped --> header
//	   '------ any other line ------------------------------------> header
type replyScanner struct {
	header []byte             // the start of the current line, at most maxRedisHeader bytes
	skip   int                // bytes that are left of the current string
	depth  int                // lists that have begun and not ended
	left   [maxRedisDepth]int // elements that are left of each of them

	commanded atomic.Bool // a command was sent: the next answer counts anew
	bytes     int         // since then
	elements  int         // that lists have announced since then
}

// command notes that the client sends a command. It may run at the same time as scan.
func (s *replyScanner) command() { s.commanded.Store(true) }

type replyError string

func (e replyError) Error() string { return string(e) }

// scan reads the next bytes. It returns an error if they exceed a bound.
func (s *replyScanner) scan(p []byte) error {
	for len(p) > 0 {
		// The client holds all of an answer that has begun, whatever it sends meanwhile.
		if s.depth == 0 && s.skip == 0 && len(s.header) == 0 && s.commanded.Swap(false) {
			s.bytes, s.elements = 0, 0
		}
		rest, err := s.next(p)
		if err != nil {
			return err
		}
		if s.bytes += len(p) - len(rest); s.bytes > maxRedisReply {
			return replyError(fmt.Sprintf("redis: more than %d bytes in one answer", maxRedisReply))
		}
		p = rest
	}
	return nil
}

// next reads the rest of a string or of a line, as far as p goes, and returns the bytes behind it.
func (s *replyScanner) next(p []byte) (rest []byte, err error) {
	if s.skip > 0 {
		n := min(s.skip, len(p))
		s.skip -= n
		return p[n:], nil
	}
	line, rest, ends := bytes.Cut(p, []byte("\n"))
	s.header = append(s.header, line[:min(len(line), maxRedisHeader-len(s.header))]...)
	if !ends {
		return nil, nil // the line goes on
	}
	err = s.line(bytes.TrimSuffix(s.header, []byte("\r")))
	s.header = s.header[:0]
	return rest, err
}

// line judges a header without its end.
func (s *replyScanner) line(header []byte) error {
	if len(header) == 0 {
		return nil
	}
	limit, each, more := maxRedisElements, 1, 0
	switch header[0] {
	case '$', '=', '!': // strings
		limit = maxRedisString
	case '*', '~', '>': // lists
	case '%': // pairs
		each = 2
	case '|': // pairs about the value that follows them, for which the client calls itself
		each, more = 2, 1
	default: // one line
		s.ended()
		return nil
	}
	length, err := strconv.Atoi(string(header[1:]))
	// A header that was cut may be a longer one than it looks. The client complains about a
	// negative length other than -1.
	if err != nil || length > limit || len(header) == maxRedisHeader {
		return replyError(fmt.Sprintf("redis: an answer with a length of %.20q, more than %d", header[1:], limit))
	}
	if limit == maxRedisString {
		if length >= 0 { // -1 stands for none
			s.skip = length + len("\r\n")
		}
		s.ended()
		return nil
	}
	return s.begin(max(length, 0)*each + more)
}

// begin begins a list of n elements. Each of them takes memory in the client before it has
// come, and a list within another one takes it beside that.
func (s *replyScanner) begin(n int) error {
	if n == 0 {
		s.ended()
		return nil
	}
	if s.elements += n; s.elements > maxRedisSum {
		return replyError(fmt.Sprintf("redis: more than %d elements in one answer", maxRedisSum))
	}
	if s.depth == len(s.left) {
		return replyError(fmt.Sprintf("redis: an answer with lists that are more than %d deep", len(s.left)))
	}
	s.left[s.depth] = n
	s.depth++
	return nil
}

// ended counts an element that has ended, and the lists that end with it.
func (s *replyScanner) ended() {
	for ; s.depth > 0; s.depth-- {
		if s.left[s.depth-1]--; s.left[s.depth-1] > 0 {
			return
		}
	}
}
