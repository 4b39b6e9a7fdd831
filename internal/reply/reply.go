// Package reply measures the answer to a request.
package reply

import (
	"io"
	"net/http"
)

// Writer writes an answer and records its status and length. It is an
// http.ResponseWriter of net/http around another one, which the file of an answer reaches by
// io.ReaderFrom, so that the kernel can send it. All else is left to an
// http.ResponseController.
type Writer struct {
	http.ResponseWriter
	Status  int   // 0 until a handler has set it
	Written int64 // bytes of the body
}

// WriteHeader sets the status. An informational one (RFC 9110 section 15.2) is not the answer's.
func (w *Writer) WriteHeader(status int) {
	w.ResponseWriter.WriteHeader(status)
	if w.Status == 0 && w.Written == 0 && status >= http.StatusOK {
		w.Status = status
	}
}

func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.Written += int64(n)
	return n, err
}

// ReadFrom leaves a file to the writer below, if that has a ReadFrom, and copies it otherwise.
func (w *Writer) ReadFrom(body io.Reader) (n int64, err error) {
	if from, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		n, err = from.ReadFrom(body)
	} else {
		n, err = io.Copy(struct{ io.Writer }{w.ResponseWriter}, body)
	}
	w.Written += n
	return n, err
}

// Unwrap lets an http.ResponseController find the methods of the writer below.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
