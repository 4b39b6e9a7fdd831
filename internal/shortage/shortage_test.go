package shortage_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/weirhq/weir/internal/shortage"
)

func TestOf(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tc := range []struct {
		err  error
		want error
	}{
		{nil, nil},
		{syscall.EMFILE, syscall.EMFILE},
		{fmt.Errorf("storage: %w", &fs.PathError{Op: "open", Path: "x", Err: syscall.ENFILE}), syscall.ENFILE},
		{dial(os.NewSyscallError("socket", syscall.EMFILE)), syscall.EMFILE},
		{dial(os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)), syscall.EADDRNOTAVAIL},
		{dial(os.NewSyscallError("socket", syscall.ENOBUFS)), syscall.ENOBUFS},
		{dial(os.NewSyscallError("socket", syscall.ENOMEM)), syscall.ENOMEM},
		{dial(&net.DNSError{Name: "ghcr.io", Err: "dial udp 127.0.0.53:53: socket: too many open files"}), syscall.EMFILE},
		{dial(&net.DNSError{Name: "ghcr.io", Err: "no such host", IsNotFound: true}), nil},
		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), nil},
		{errors.New("the upstream says: too many open files"), nil},
		{syscall.ENOSPC, nil},
	} {
		if got := shortage.Of(tc.err); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
}
