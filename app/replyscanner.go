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
	header []byte       // the start of the current line, at most maxRedisHeader bytes
	skip   int          // bytes that are left of the current string
	total  atomic.Int64 // bytes since the last command
}

// replyError says that an answer of Redis exceeds a bound.
type replyError string

func (e replyError) Error() string { return string(e) }

// scan reads the next bytes. It returns an error if they exceed a bound.
func (s *replyScanner) scan(p []byte) error {
	if s.total.Add(int64(len(p))) > maxRedisReply {
		return replyError(fmt.Sprintf("redis: more than %d bytes in one answer", maxRedisReply))
	}
	for len(p) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(p))
			s.skip, p = s.skip-n, p[n:]
			continue
		}
		line, rest, ends := bytes.Cut(p, []byte("\n"))
		s.header = append(s.header, line[:min(len(line), maxRedisHeader-len(s.header))]...)
		p = rest
		if !ends {
			return nil // the line goes on
		}
		if err := s.line(bytes.TrimSuffix(s.header, []byte("\r"))); err != nil {
			return err
		}
		s.header = s.header[:0]
	}
	return nil
}

// line judges a header without its end.
func (s *replyScanner) line(header []byte) error {
	if len(header) == 0 {
		return nil
	}
	limit := 0
	switch header[0] {
	case '$', '=', '!': // strings
		limit = maxRedisString
	case '*', '~', '>', '%', '|': // lists
		limit = maxRedisElements
	default: // one line
		return nil
	}
	length, err := strconv.Atoi(string(header[1:]))
	// -1 stands for none. The client complains about any other header that is not a length.
	if err == nil && length < 0 {
		return nil
	}
	// A header that was cut may be a longer one than it looks.
	if err != nil || length > limit || len(header) == maxRedisHeader {
		return replyError(fmt.Sprintf("redis: an answer with a length of %.20q, more than %d", header[1:], limit))
	}
	if limit == maxRedisString {
		s.skip = length + len("\r\n")
	}
	return nil
}
