// Package shortage recognises failures for lack of a resource of this machine, such as
// open files, which say nothing about the upstream or the file that was to be opened.
package shortage

import (
	"errors"
	"net"
	"strings"
	"syscall"
)

// shortages are the errors of a machine or a process that has run out of something.
var shortages = [...]syscall.Errno{
	syscall.EMFILE,        // open files of the process
	syscall.ENFILE,        // open files of the system
	syscall.ENOBUFS,       // buffers of sockets
	syscall.ENOMEM,        // memory of the kernel
	syscall.EADDRNOTAVAIL, // local ports, or an address to connect from
}

// Of returns the shortage that an error is or wraps, or nil.
func Of(err error) error {
	if err == nil {
		return nil
	}
	// Package net keeps only the text of a failed question to the DNS.
	unresolved, _ := errors.AsType[*net.DNSError](err)
	for _, errno := range shortages {
		if errors.Is(err, errno) || unresolved != nil && strings.HasSuffix(unresolved.Err, errno.Error()) {
			return errno
		}
	}
	return nil
}
