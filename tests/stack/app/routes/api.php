<?php

use App\Http\Controllers\AuthController;
use App\Http\Controllers\JobController;
use App\Http\Controllers\OrderController;
use App\Http\Controllers\StatusController;
use App\Http\Controllers\UploadController;
use App\Http\Controllers\UserController;
use Illuminate\Support\Facades\Route;

Route::get('/status', [StatusController::class, 'status']);
Route::post('/login', [AuthController::class, 'login']);

Route::middleware('token')->group(function (): void {
    Route::post('/logout', [AuthController::class, 'logout']);
    Route::get('/users/{id}', [UserController::class, 'show'])->whereNumber('id');
    Route::post('/users', [UserController::class, 'store']);
    Route::get('/orders/{id}', [OrderController::class, 'show'])->whereNumber('id');
    Route::post('/orders', [OrderController::class, 'store']);
    Route::post('/jobs', [JobController::class, 'store']);
    Route::post('/upload', [UploadController::class, 'store']);
    Route::get('/upload/{id}', [UploadController::class, 'show'])->whereUuid('id');
    Route::delete('/upload/{id}', [UploadController::class, 'destroy'])->whereUuid('id');
});
