package upstreamtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// intercept carries out the part of a plan that comes before the usual answer. It
// reports whether the plan replaces that answer.
func (p *plan) intercept(w http.ResponseWriter, req *http.Request) bool {
	for _, gate := range p.before {
		if !gate.pass(req.Context()) {
			// The client has left. A late answer would reach the record at a moment
			// that no test can know.
			panic(http.ErrAbortHandler)
		}
	}
	if p.drop {
		panic(http.ErrAbortHandler)
	}
	if p.status == 0 {
		return false
	}
	p.setHeaders(w)
	w.WriteHeader(p.status)
	if req.Method != http.MethodHead {
		io.WriteString(w, p.body)
	}
	return true
}

func (p *plan) setHeaders(w http.ResponseWriter) {
	for _, h := range p.headers {
		if h.value == "" {
			w.Header().Del(h.name)
		} else {
			w.Header().Set(h.name, h.value)
		}
	}
}

// write answers with the content, or the range of it that was asked for.
func (p *plan) write(w http.ResponseWriter, req *http.Request, c content) {
	size := c.Size()
	if p.truncate >= 0 {
		size = min(size, p.truncate)
	}
	start, end, status := int64(0), size, http.StatusOK
	if value := req.Header.Get("Range"); value != "" && !p.ignoreRange {
		var ok bool
		if start, end, ok = parseRange(value, size); !ok {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, size))
	}
	if !p.chunked {
		w.Header().Set("Content-Length", strconv.FormatInt(end-start, 10))
	}
	p.setHeaders(w)
	w.WriteHeader(status)
	if p.chunked || p.stall != nil {
		http.NewResponseController(w).Flush()
	}
	if req.Method != http.MethodHead {
		p.send(req.Context(), w, c, start, end)
	}
}

// parseRange reads "bytes=a-", "bytes=a-b" and "bytes=-n".
func parseRange(value string, size int64) (start, end int64, ok bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(value, "bytes="), "-")
	if !ok {
		return 0, 0, false
	}
	if first == "" {
		n, err := strconv.ParseInt(last, 10, 64)
		return max(0, size-n), size, err == nil && n > 0
	}
	start, err := strconv.ParseInt(first, 10, 64)
	end = size
	if n, err := strconv.ParseInt(last, 10, 64); err == nil {
		end = min(size, n+1)
	}
	return start, end, err == nil && start < end
}

// send writes the bytes from start to end with the plan's faults.
func (p *plan) send(ctx context.Context, w http.ResponseWriter, c content, start, end int64) {
	cut := int64(-1) // offset in the content
	if p.cutAfter >= 0 {
		cut = start + p.cutAfter
	}
	if p.cutEvery > 0 {
		cut = (start/p.cutEvery + 1) * p.cutEvery
	}
	stop := end
	if cut >= 0 && cut < end {
		stop = cut
	}
	if p.stallAfter >= 0 && start+p.stallAfter < stop {
		p.copy(w, c, start, start+p.stallAfter)
		http.NewResponseController(w).Flush()
		p.stall.pass(ctx)
		start += p.stallAfter
	}
	for p.drip > 0 && stop-start > p.drip {
		p.copy(w, c, start, start+p.drip)
		http.NewResponseController(w).Flush()
		start += p.drip
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
	p.copy(w, c, start, stop)
	if stop < end {
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func (p *plan) copy(w io.Writer, c content, start, end int64) {
	if p.corrupt < start || p.corrupt >= end {
		io.Copy(w, io.NewSectionReader(c, start, end-start))
		return
	}
	var flipped [1]byte
	io.Copy(w, io.NewSectionReader(c, start, p.corrupt-start))
	c.ReadAt(flipped[:], p.corrupt)
	flipped[0] ^= 0xff
	w.Write(flipped[:])
	io.Copy(w, io.NewSectionReader(c, p.corrupt+1, end-p.corrupt-1))
}
