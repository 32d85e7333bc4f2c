! Classify images from Fortran: read raw float32 values [images, 3, height, width], which are
! normalised as in training, and print the number of the most probable class of each image.
!
!     gfortran example.f90 -o example -L FOLDER -l vigmpi_infer -Wl,-rpath,FOLDER
!     ./example FOLDER images.raw NUMBER
module vigmpi_infer
   use, intrinsic :: iso_c_binding
   implicit none
   interface
      integer(c_int) function vigmpi_open(folder, first, num_layers, model) bind(c)
         import
         character(kind=c_char), intent(in) :: folder(*)
         integer(c_int), value :: first, num_layers
         type(c_ptr), intent(out) :: model
      end function
      integer(c_int) function vigmpi_run(model, input, num_images, output) bind(c)
         import
         type(c_ptr), value :: model
         real(c_float), intent(in) :: input(*)
         integer(c_int), value :: num_images
         real(c_float), intent(out) :: output(*)
      end function
      subroutine vigmpi_close(model) bind(c)
         import
         type(c_ptr), value :: model
      end subroutine
      integer(c_int) function vigmpi_value_bytes(model) bind(c)
         import
         type(c_ptr), value :: model
      end function
      integer(c_int) function vigmpi_input_values(model) bind(c)
         import
         type(c_ptr), value :: model
      end function
      integer(c_int) function vigmpi_output_values(model) bind(c)
         import
         type(c_ptr), value :: model
      end function
      type(c_ptr) function vigmpi_last_error() bind(c)
         import
      end function
   end interface
contains
   function last_error() result(text)
      character(kind=c_char), pointer :: characters(:)
      character(:), allocatable :: text
      integer :: i
      call c_f_pointer(vigmpi_last_error(), characters, [1024])
      text = ""
      do i = 1, 1024
         if (characters(i) == c_null_char) exit
         text = text // characters(i)
      end do
   end function
end module

program example
   use vigmpi_infer
   implicit none
   character(1000) :: folder, file, number
   type(c_ptr) :: model
   real(c_float), allocatable :: images(:, :), logits(:, :)
   integer :: num_images, i, unit, problem

   call get_command_argument(1, folder)
   call get_command_argument(2, file)
   call get_command_argument(3, number)
   read (number, *, iostat=problem) num_images
   if (problem /= 0) then
      write (*, "(a)") "usage: example FOLDER IMAGES NUMBER"
      error stop 2
   end if
   if (vigmpi_open(trim(folder) // c_null_char, 0_c_int, 0_c_int, model) /= 0) call fail()
   if (vigmpi_value_bytes(model) /= c_sizeof(1.0_c_float)) then
      write (*, "(a)") "an export with --dtype float32 is needed: " // trim(folder)
      error stop 2
   end if
   allocate (images(vigmpi_input_values(model), num_images))
   allocate (logits(vigmpi_output_values(model), num_images))
   open (newunit=unit, file=trim(file), access="stream", form="unformatted", status="old", &
      iostat=problem)
   if (problem == 0) read (unit, iostat=problem) images
   if (problem /= 0) then
      write (*, "(a)") "cannot read the images: " // trim(file)
      error stop 2
   end if
   close (unit)
   if (vigmpi_run(model, images, int(num_images, c_int), logits) /= 0) call fail()
   do i = 1, num_images
      print "(i0)", maxloc(logits(:, i), dim=1) - 1
   end do
   call vigmpi_close(model)
contains
   subroutine fail()
      write (*, "(a)") last_error()
      error stop 1
   end subroutine
end program
