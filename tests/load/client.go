// Package load has what the programs that measure share: clients that cost little, content that
// needs no memory, and the kernel's account of a process.
package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Request is a client that costs little: it writes one prepared request and reads the answer,
// again and again, as long as next wants another one and ctx has not ended. The header fields,
// if any, end with CRLF each. An answer has a length and the status 200 or, of a mirror with a
// bucket, 307.
func Request(ctx context.Context, addr, path, fields string, next func() bool) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	text, r := []byte("GET "+path+" HTTP/1.1\r\nHost: "+addr+"\r\n"+fields+"\r\n"), bufio.NewReader(conn)
	for more := true; more && ctx.Err() == nil; more = next() {
		if _, err := conn.Write(text); err != nil {
			return err
		}
		if err := readAnswer(r); err != nil {
			return err
		}
	}
	return nil
}

func readAnswer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if text := string(status); !strings.HasPrefix(text, "HTTP/1.1 200 ") && !strings.HasPrefix(text, "HTTP/1.1 307 ") {
		return fmt.Errorf("answer %q", status)
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return err
			}
		}
	}
	_, err = r.Discard(length)
	return err
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// ReadAll reads the body of an answer to its end, of whose length the caller has read some bytes
// already. It returns an error if the body is shorter than its length.
func ReadAll(resp *http.Response, already int64) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// Without the wrapper the copy would choose its own, smaller buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, *buf)
	if n += already; err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = fmt.Errorf("%s: %d bytes of %d", resp.Request.URL.Path, n, resp.ContentLength)
	}
	return err
}
